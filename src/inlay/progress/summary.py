"""The last words of a build: one line for people, JSON for programs."""

from __future__ import annotations

from inlay.progress.plain import size_text
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inlay.request import BuildRequest, BuildResult, StepOutcome


def last_line(result: BuildResult) -> str:
    """`sha256:… · 7 steps cached, 2 run · 1.05MB pulled, 2.10kB pushed`"""
    steps = f"{result.steps_cached} step{'s' * (result.steps_cached != 1)} cached, {result.steps_run} run"
    moved = f"{size_text(result.bytes_pulled)} pulled, {size_text(result.bytes_pushed)} pushed"
    return " · ".join(part for part in (result.digest, steps, moved) if part)


def metadata(result: BuildResult, request: BuildRequest) -> str:
    """The result in buildx's words, and inlay's own figures."""
    document = {
        "containerimage.config.digest": result.config_digest,
        "containerimage.digest": result.digest,
        "image.name": ",".join(request.tags),
        "inlay.steps.cached": result.steps_cached,
        "inlay.steps.run": result.steps_run,
        "inlay.bytes.pulled": result.bytes_pulled,
        "inlay.bytes.pushed": result.bytes_pushed,
        "inlay.steps": [step_fields(step) for step in result.steps],
        "inlay.warnings": list(result.warnings),
    }
    import json

    return json.dumps(document, indent=2) + "\n"


def step_fields(step: StepOutcome) -> dict[str, object]:
    fields: dict[str, object] = {"name": step.name, "outcome": step.outcome, "location": step.location}
    if step.explanation is not None:
        fields["reasons"] = list(step.explanation.reasons)
        fields["changes"] = [change._asdict() for change in step.explanation.changes]
    return fields
