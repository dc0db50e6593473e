"""`inlay cache inspect`: what a cache holds, and what of a Dockerfile it would save."""

from __future__ import annotations

import json
import os
import sys

from inlay.cli import add_root, say
from inlay.cli.table import short, table
from inlay.errors import UsageError
from inlay.notation import parse_cache_from, parse_pair
from inlay.progress.plain import size_text
from inlay.request import BuildRequest, Option
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from inlay.cache.inspection import Inspected, Record
    from inlay.request import StepOutcome
    from inlay.store.journal import Journal

_FORMS = {
    "inline": "inline cache of {platform}, in the config of image",
    "beside": "cache of other stages of {platform}, beside the image, in manifest",
    "image-manifest": "cache manifest",
    "index": "cache index",
}


_ROOTS = {"source": "sources", "content": "content"}


def add(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `inlay cache`."""
    parser.description = "Look into the build cache that an image, a registry or a folder holds."
    inspect = parser.add_subparsers(required=True, metavar="WHAT").add_parser(
        "inspect",
        help="show what a cache holds",
        description="Show the records of a cache: an image with an inline cache, or a cache of its own, in a "
        "registry, an OCI layout (folder or archive) or a local cache folder.",
    )
    inspect.set_defaults(command=_inspect)
    add = inspect.add_argument
    add("cache", metavar="REF|PATH|type=TYPE,…", help="a cache, as --cache-from takes it, or a path")
    add(
        "--for",
        dest="context",
        default="",
        metavar="PATH",
        help="say which steps of PATH/Dockerfile would hit",
    )
    add("-f", "--file", default="", help="the Dockerfile for --for")
    add("--target", default="", metavar="STAGE", help="its stage")
    add("--platform", default="", help="its platforms")
    add("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="a value for one of its ARGs")
    add("--build-context", action="append", default=[], metavar="NAME=PLACE", help="an additional context")
    add("--json", action="store_true", help="print JSON")
    add_root(inspect)
    add("--insecure-registry", action="append", default=[], metavar="HOST[:PORT]", help="as of inlay build")


def _inspect(arguments: argparse.Namespace) -> int:
    from inlay.cache.inspection import inspect_cache
    from inlay.sources.places import Places
    from inlay.store.journal import Journal
    from inlay.store.store import Store
    from inlay.system.rootless import enter

    option = cache_option(arguments.cache)
    if arguments.context:
        enter()
    with Store(arguments.root, warn=say) as store:
        places = Places(store.root, insecure_registries=arguments.insecure_registry)
        try:
            found = inspect_cache(option, places, warn=say)
        finally:
            places.close()
        found = [_named(cache, Journal(store.root)) for cache in found]
    steps = _steps(option, arguments) if arguments.context else None
    if arguments.json:
        print(json.dumps(_document(arguments, found, steps), indent=2))
        return 0
    sys.stdout.write("\n".join(_text(cache, arguments.cache) for cache in found))
    if steps is not None:
        sys.stdout.write("\n" + _hits_text(steps, arguments.context))
    return 0


def cache_option(text: str) -> Option:
    """What `--cache-from` takes, or the path of a layout, with `:TAG` or `@DIGEST` where it has several."""
    if text.startswith("type="):
        return parse_cache_from(text)
    if os.path.exists(text):
        return Option("oci-layout", (("src", text),))
    for separator, field in (("@", "digest"), (":", "tag")):
        path, found, name = text.partition(separator)
        if found and os.path.exists(path):
            return Option("oci-layout", (("src", path), (field, name)))
    if text.startswith(("/", "./", "../")):
        raise UsageError(f"there is no cache at {text}")
    return parse_cache_from(text)


# -- what would match --------------------------------------------------------------------------------------


def _steps(option: Option, arguments: argparse.Namespace) -> Sequence[StepOutcome]:
    """What would become of each step of the Dockerfile with this cache alone. Nothing runs."""
    from inlay.engine.build import NotCached, build

    request = BuildRequest(
        context=arguments.context,
        dockerfile=arguments.file,
        target=arguments.target,
        platforms=tuple(filter(None, arguments.platform.split(","))),
        build_args=tuple(parse_pair(text, "--build-arg") for text in arguments.build_arg),
        build_contexts=tuple(parse_pair(text, "--build-context") for text in arguments.build_context),
        outputs=(Option("cacheonly"),),
        cache_from=(option,),
        root=arguments.root,
        insecure_registries=tuple(arguments.insecure_registry),
        require_cached=True,
        local_cache=False,
    )
    try:
        return build(request).steps
    except NotCached as error:
        return error.steps


def _hits_text(steps: Sequence[StepOutcome], context: str) -> str:
    from inlay.progress.explained import explanation_text

    cached = sum(step.outcome == "cached" for step in steps)
    lines = [f"{cached} of {len(steps)} steps of {context} would be cached"]
    lines += [f"  {'+' if step.outcome == 'cached' else '-'} {step.location}  {step.name}" for step in steps]
    missing = [step for step in steps if step.outcome != "cached"]
    return "\n".join(lines) + "\n" + (explanation_text(missing) if missing else "")


def _named(cache: Inspected, journal: Journal) -> Inspected:
    """Steps that the cache does not tell of have the names that they had in builds here."""
    records = [
        record._replace(step=note.name)
        if record.inputs and not record.step and (note := journal.step(record.digest)) is not None
        else record
        for record in cache.records
    ]
    return cache._replace(records=tuple(records))


# -- records -----------------------------------------------------------------------------------------------


def _text(cache: Inspected, name: str) -> str:
    def count(kind: str) -> int:
        return sum(record.kind == kind for record in cache.records)

    layered = sum(bool(record.layers) for record in cache.records)
    counts = [f"{len(cache.records)} records: {count('step')} of steps ({layered} with layers)"]
    counts += [f"{count(kind)} of {title}" for kind, title in _ROOTS.items() if count(kind)]
    form = _FORMS[cache.form].format(platform=cache.platform)
    head = (
        f"{name}\n"
        f"  {form} {cache.manifest}\n"
        f"  {', '.join(counts)}\n"
        f"  {len(cache.layers)} layers, {size_text(sum(size for _, size in cache.layers))}; "
        f"config {size_text(cache.config_size)}\n\n"
    )
    rows = [("", "KIND", "KEY", "MADE FROM", "LAYERS", "SIZE", "CREATED", "STEP"), *map(_row, cache.records)]
    return head + table([("  " + row[0], *row[1:]) for row in rows], right=(4, 5))


def _row(record: Record) -> tuple[str, ...]:
    made_from = " + ".join("|".join(map(str, ways)) for ways in record.inputs)
    layers = (str(len(record.layers)), size_text(record.size)) if record.layers else ("", "")
    step = " ".join(record.step.split())
    shown = step if len(step) <= 80 else step[:79] + "…"
    created = record.created.partition(".")[0].removesuffix("Z").replace("T", " ")
    return (str(record.number), record.kind, short(record.digest), made_from, *layers, created, shown)


def _document(
    arguments: argparse.Namespace, found: Sequence[Inspected], steps: Sequence[StepOutcome] | None
) -> dict[str, object]:
    document: dict[str, object] = {
        "cache": arguments.cache,
        "caches": [
            {
                **cache._asdict(),
                "layers": [{"digest": digest, "size": size} for digest, size in cache.layers],
                "records": [record._asdict() for record in cache.records],
            }
            for cache in found
        ],
    }
    if steps is not None:
        from inlay.progress.summary import step_fields

        document["steps"] = [step_fields(step) for step in steps]
    return document
