import re
from typing import NamedTuple
from inlay.errors import UsageError
A = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
D = r"(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
R = re.compile(rf"({D})/({A}(?:/{A})*)(?::([A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?(?:@([A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{{32,}}))?\Z")
class Reference(NamedTuple):
    domain: str
    path: str
    tag: str = ""
    digest: str = ""
    def __str__(self): return f"{self.domain}/{self.path}" + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")
    def with_default_tag(self): return self if self.tag or self.digest else self._replace(tag="latest")
    @property
    def familiar(self):
        d, p = self.domain, self.path
        if d == "docker.io":
            d = ""
            if p.startswith("library/") and "/" not in p[8:]: p = p[8:]
        return (d + "/" if d else "") + p + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")
def parse(s):
    if re.match(r"[a-f0-9]{64}\Z", s): raise UsageError(f"invalid repository name ({s}), cannot specify 64-byte hexadecimal strings")
    head, slash, rest = s.partition("/")
    if not slash: d, r = "docker.io", "library/" + s
    else:
        if head == "localhost" or any(c in head for c in ".:") or head.lower() != head: d, r = head, rest
        else: d, r = "docker.io", s
        if head == "index.docker.io": d = "docker.io"
        if d == "docker.io" and "/" not in r: r = "library/" + r
    remote = r.partition(":")[0]
    if remote.lower() != remote: raise UsageError(f"invalid reference format: repository name ({remote}) must be lowercase")
    m = R.match(d + "/" + r)
    if not m:
        if R.match((d+"/"+r).lower()): raise UsageError("repository name must be lowercase")
        raise UsageError("invalid reference format")
    if len(m[2]) > 255: raise UsageError("repository name must not be more than 255 characters")
    return Reference(m[1], m[2], m[3] or "", m[4] or "")
