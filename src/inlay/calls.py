"""What can be told of a Dockerfile without building it: `--call check|outline|targets`, `inlay debug llb`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.actions.secrets import Secrets
from inlay.errors import UsageError
from inlay.frontend import Frontend
from inlay.refs import RefStore
from inlay.sources.places import Places
from inlay.sources.remote import RemoteSources
from inlay.store import Store

if TYPE_CHECKING:
    from inlay.dockerfile.report import LintReport, OutlineReport, TargetsReport
    from inlay.request import BuildRequest

_CALLS = ("check", "lint", "outline", "targets")


def call_frontend(request: BuildRequest, call: str) -> tuple[str, bool]:
    """The text that `call` asks for, and whether nothing was found wrong.

    Raises `UsageError` for a call that does not exist, `DockerfileError` where the Dockerfile is broken.
    """
    name, *options = call.split(",")
    if name not in _CALLS:
        raise UsageError(f"--call {call}: must be build, check, outline or targets")
    if any(option not in ("format=json", "format=text") for option in options):
        raise UsageError(f"--call {call}: the only option is format=text or format=json")
    report = _report(request, name)
    clean = getattr(report, "is_clean", True)
    if "format=json" in options:
        return report.to_json().rstrip("\n") + "\n", clean
    text = report.to_text()
    return text or "Check complete, no warnings found.\n", clean


def _report(request: BuildRequest, name: str) -> LintReport | OutlineReport | TargetsReport:
    from inlay.dockerfile.report import lint, list_targets, outline

    with Store(request.root, warn=lambda message: None) as store:
        places = Places(store.root, insecure_registries=request.insecure_registries)
        try:
            frontend = _frontend(request, store, places)
            text, options = frontend.read()
            if name == "targets":
                return list_targets(text, options.filename)
            if name == "outline":
                return outline(text, options, frontend.resolver)
            return lint(text, options, frontend.resolver)
        finally:
            places.close()


def _frontend(request: BuildRequest, store: Store, places: Places) -> Frontend:
    secrets = Secrets(request.secrets, request.ssh)

    def refs() -> RefStore:
        return RefStore(store.layers, store.content, store.snapshotter, places.at)

    remote = RemoteSources(store.root, store.snapshotter, refs, places, secrets)
    return Frontend(request, store, places, lambda event: None, remote)


def dump_llb(request: BuildRequest, *, raw: bool) -> bytes:
    """The definition of the first platform: `pb.Definition`, or JSON to read."""
    from inlay.llb.dump import definition_bytes, definition_json

    with Store(request.root, warn=lambda message: None) as store:
        places = Places(store.root, insecure_registries=request.insecure_registries)
        try:
            frontend = _frontend(request, store, places)
            definition = frontend.convert()[0].definition
        finally:
            places.close()
    if raw:
        return definition_bytes(definition, frontend.dockerfile)
    return definition_json(definition).encode() + b"\n"
