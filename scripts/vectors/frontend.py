"""Kinds that compare whole conversions: ops, image configs, warnings and errors of a Dockerfile."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

from inlay.digest import Digest
from inlay.dockerfile.directives import detect_syntax
from inlay.dockerfile.frontend import convert
from inlay.dockerfile.linter import Linter
from inlay.dockerfile.options import ConvertOptions
from inlay.dockerfile.report import lint
from inlay.dockerfile.resolver import ImageRequest, ResolvedImage, Resolver
from inlay.errors import InlayError, NotFound
from inlay.llb.graph import Vertex
from inlay.llb.ops import SourceOp
from inlay.platform import Platform, format_platform, normalise
from inlay.reference import parse as parse_reference
from vectors.surroundings import dockerfile_of

if TYPE_CHECKING:
    from inlay.dockerfile.conversion import ConvertedPlatform
    from inlay.dockerfile.linter import LintWarning
    from vectors import Pair
    from vectors.surroundings import Surroundings

_MACHINE = Platform("linux", "amd64")
_SESSION = "goldensession0000000000000"
_CREATED = "2024-01-02T03:04:05Z"


class FakeRegistry(Resolver):
    """The images that the records were made with: their digests are those of their names."""

    def __init__(self, images: dict[str, Any], files: dict[str, str]) -> None:
        self._images = images
        self._files = files
        self.asked: list[dict[str, str]] = []

    def resolve(self, request: ImageRequest) -> ResolvedImage:
        reference = parse_reference(request.reference)
        name = reference.path.rpartition("/")[2]
        if name == "missing":
            raise NotFound(f"{request.reference}: not found")
        key = name if name in self._images else "default"
        platform = normalise(request.platform or _MACHINE)
        digest = reference.digest or _digest(request.reference)
        self.asked.append(
            {"ref": request.reference, "platform": format_platform(platform), "digest": digest, "key": key}
        )
        return ResolvedImage(
            Digest(digest), json.dumps(self._config(key, request.reference, platform)).encode()
        )

    def _config(self, key: str, reference: str, platform: Platform) -> dict[str, Any]:
        known = self._images[key]
        fields = (("os", platform.os), ("architecture", platform.architecture), ("variant", platform.variant))
        config = {name: known.get(name, value) for name, value in fields}
        config |= {"os.version": known.get("os_version", ""), "created": _CREATED, "config": known["config"]}
        entry: dict[str, Any] = {"created": _CREATED, "created_by": f"base {key}"}
        layers = [_digest(f"layer:{reference}")]
        if known.get("no_layers"):
            entry |= {"created_by": "ENV A=b", "empty_layer": True}
            layers = []
        return config | {"rootfs": {"type": "layers", "diff_ids": layers or None}, "history": [entry]}

    def dockerignore(self, name: str) -> bytes | None:
        text = self._files.get(f"{name}/.dockerignore")
        return None if text is None else text.encode()

    def time_of(self, source: SourceOp) -> int | None:
        return 1600000001 if source.scheme == "git" else 1700000000


def conversion(record: dict[str, Any], around: Surroundings) -> Pair:
    """Compare a `feature` or a `fuzz` record."""
    golden, files = record["golden"], record.get("files", {})
    registry = FakeRegistry(around.images, files)
    linter = Linter()
    actual: dict[str, Any] = {"error": None, "results": []}
    try:
        options = _options(record, files)
        results = convert(dockerfile_of(record), options, registry, linter).results
        actual["results"] = [_result(result) for result in results]
    except InlayError as error:
        actual["error"] = _message(error)
    actual["warnings"] = sorted(map(_warning, linter.warnings))
    recorded = {
        "error": _recorded_error(golden, actual["error"]),
        "results": [_recorded_result(result) for result in golden.get("results") or []],
        "warnings": sorted(_recorded_warning(warning) for warning in golden.get("warnings", [])),
    }
    for result, own in zip(recorded["results"], actual["results"], strict=False):
        _leave_out_unrecorded(result, own)
    if "syntax" in golden:
        directive = detect_syntax(dockerfile_of(record))
        recorded["syntax"], actual["syntax"] = golden["syntax"], directive and directive.reference
    if "lint" in record:
        _add_lint(record, files, registry, recorded, actual)
    return recorded, actual


def _options(record: dict[str, Any], files: dict[str, str]) -> ConvertOptions:
    options = ConvertOptions.parse(record.get("opts", {}), _MACHINE)
    own = f"{options.filename}.dockerignore"
    is_own = f"dockerfile/{own}" in files
    ignore = files.get(f"dockerfile/{own}" if is_own else "context/.dockerignore")
    image = f"docker-image://docker.io/library/inputimage:latest@{_digest('inputimage')}"
    return options._replace(
        session=_SESSION,
        dockerignore=None if ignore is None else ignore.encode(),
        dockerignore_name=own if is_own else ".dockerignore",
        inputs={"inp": Vertex(SourceOp(image), (), _MACHINE)},
        missing=frozenset(record.get("nocaps", ())),
    )


def _result(result: ConvertedPlatform) -> dict[str, Any]:
    vertices = result.definition.vertices
    names = [{**dict(each.notes.description), "llb.customname": each.name} for each in vertices]
    return {
        "ops": [Digest.of(op) for op in result.definition.ops],
        "image": json.loads(result.image),
        "image_sha256": hashlib.sha256(result.image).hexdigest(),
        "base_image": json.loads(result.base_image) if result.base_image else None,
        "epoch": result.epoch,
        "platform": str(result.platform),
        "descriptions": [
            {name: text for name, text in each.items() if text or "." in name} for each in names
        ],
        "ignoring_cache": [each.ignore_cache for each in vertices],
    }


def _recorded_result(golden: dict[str, Any]) -> dict[str, Any]:
    ops = golden["ops"]
    result = {
        name: golden[name] for name in ("image", "image_sha256", "base_image", "platform") if name in golden
    }
    if "epoch" in golden:
        result["epoch"] = int(golden["epoch"])
    if ops and isinstance(ops[0], str):
        return result | {"ops": ops}
    metadata = [op.get("meta", {}) for op in ops[:-1]]
    for op in ops:
        assert Digest.of(base64.b64decode(op["raw"])) == op["digest"]
    return result | {
        "ops": [op["digest"] for op in ops],
        "descriptions": [meta.get("description", {}) for meta in metadata],
        "ignoring_cache": [meta.get("ignoreCache", False) for meta in metadata],
    }


def _leave_out_unrecorded(recorded: dict[str, Any], actual: dict[str, Any]) -> None:
    """Records of mutations hold digests alone; a field that a record has not is not compared."""
    for name in [name for name in actual if name not in recorded]:
        del actual[name]
    for own, golden in zip(actual.get("descriptions", []), recorded.get("descriptions", []), strict=False):
        if not own["llb.customname"] and "llb.customname" not in golden:
            del own["llb.customname"]


def _recorded_error(golden: dict[str, Any], actual: str | None) -> str | None:
    """The recorded message; or the actual one, where BuildKit might as well have said that."""
    if "error" not in golden:
        return None
    message: str = golden["error"]["msg"]
    others = golden.get("error_alts", [])
    if actual in others or (actual and others and _without_hint(actual) == _without_hint(message)):
        return actual
    return message


def _without_hint(message: str) -> str:
    return message.partition(" (did you mean ")[0]


def _message(error: InlayError) -> str:
    message = getattr(error, "message", None) or str(error)
    hint = getattr(error, "hint", "")
    return f"{message} (did you mean {hint}?)" if hint else message


def _warning(warning: LintWarning) -> tuple[str, str, int, str]:
    line = warning.location.first_line if warning.location else 0
    return warning.rule, warning.message, line, warning.url


def _recorded_warning(golden: dict[str, Any]) -> tuple[str, str, int, str]:
    return golden["rule"], golden["msg"], golden.get("line", 0), golden.get("url", "")


def _add_lint(
    record: dict[str, Any],
    files: dict[str, str],
    registry: FakeRegistry,
    recorded: dict[str, Any],
    actual: dict[str, Any],
) -> None:
    """Compare what the lint request says, too."""
    golden = record["golden"]
    report = lint(dockerfile_of(record), _options(record, files), registry)
    recorded["lint_error"] = golden["lint_error"]["msg"] if "lint_error" in golden else None
    actual["lint_error"] = _message(report.error) if report.error else None
    recorded["lint_warnings"] = sorted(
        _recorded_warning(each)[:3] for each in golden.get("lint_warnings", [])
    )
    actual["lint_warnings"] = sorted(_warning(each)[:3] for each in report.warnings)


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
