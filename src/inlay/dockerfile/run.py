"""RUN: an exec op with its mounts.

BuildKit: frontend/dockerfile/dockerfile2llb/convert.go `dispatchRun`, convert_{runmount,secrets,ssh}.go.
"""

from __future__ import annotations

from inlay.dockerfile.copy import inline_file
from inlay.dockerfile.drafts import DraftMount, ExecDraft, FileDraft
from inlay.dockerfile.instructions import Run, heredoc_in
from inlay.dockerfile.options import BIND_WITHOUT_OUTPUT, SETS_DEFAULT_PATH
from inlay.dockerfile.parser import chomp_heredoc
from inlay.golang.patterns import clean, join
from inlay.golang.text import SPACE, quote, valid
from inlay.llb import ops
from inlay.llb.graph import Notes
from inlay.llb.keys import base_name
from inlay.platform import DEFAULT_PATH
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inlay.dockerfile.conversion import Conversion
    from inlay.dockerfile.drafts import Draft
    from inlay.dockerfile.mounts import MountOptions
    from inlay.dockerfile.scope import Scope
    from inlay.dockerfile.stages import StageBuild

_PIPES = "/dev/pipes/"
_NETWORKS = {"none": ops.NETWORK_NONE, "host": ops.NETWORK_HOST}
_SHARINGS = {"": ops.SHARED, "shared": ops.SHARED, "private": ops.PRIVATE, "locked": ops.LOCKED}


def _read_mounts(scope: Scope, instruction: Run) -> list[MountOptions]:
    from inlay.dockerfile.mounts import read_mount

    return [read_mount(text, scope.expand) for text in instruction.mounts]


def run(conversion: Conversion, scope: Scope, instruction: Run) -> None:
    """Add the instruction's op to the stage. Raises `DockerfileError` or `ValueError` with BuildKit's message."""
    mounts = _read_mounts(scope, instruction) if instruction.mounts else []
    scope.stage.paths.add("/")
    arguments, shown, pipe = _arguments(scope, instruction)
    if instruction.shell:
        arguments = with_shell(scope.stage, arguments)
    running = _Running(conversion, scope, mounts)
    if pipe is not None:
        running.mounts.append(pipe)
    running.add_mounts()
    if instruction.devices:
        raise ValueError("device feature is only supported in Dockerfile frontend 1.14.0-labs or later")
    state = scope.stage.state
    notes = Notes(
        _name(conversion, scope, shown, mounts),
        (("com.docker.dockerfile.v1.command", valid(instruction.source)),),
        scope.location,
        scope.stage.ignore_cache,
        resources=conversion.options.resources,
    )
    running.add_shm()
    op = running.op(arguments, instruction)
    state.root = ExecDraft(op, running.all_mounts(state.root), running.specials, notes, state.platform)
    scope.commit(f"RUN {_with_arguments(scope, arguments)} # buildkit", layer=True)


def with_shell(stage: StageBuild, arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The command line that runs `arguments` in the image's shell."""
    shell = stage.image.shell
    if not shell:
        shell = ["cmd", "/S", "/C"] if stage.image.platform.os == "windows" else ["/bin/sh", "-c"]
    return (*shell, " ".join(arguments))


def _arguments(scope: Scope, instruction: Run) -> tuple[tuple[str, ...], str, DraftMount | None]:
    """The command line, the text that progress shows, and for a script the mount that has it."""
    arguments, files = instruction.arguments, instruction.files
    if not files:
        return arguments, instruction.source, None
    if len(arguments) != 1 or not instruction.shell:
        raise ValueError(f"parsing produced an invalid run command: [{' '.join(arguments)}]")
    if heredoc_in(arguments[0]) is None:
        bodies = [f"\n{file.content}{file.name}" for file in files]
        return ("".join([arguments[0], *bodies]),), instruction.source, None
    script = files[0]
    shown = f"{instruction.source} ({_summary(script.content)})"
    content = chomp_heredoc(script.content) if script.chomp else script.content
    if scope.stage.image.platform.os == "windows" or not content.startswith("#!"):
        return (content,), shown, None
    source = inline_file(script.name, content, mode=0o755)
    mount = DraftMount(ops.Mount(dest=_PIPES, selector="/", readonly=True), source)
    return (join(_PIPES, script.name),), shown, mount


def _summary(content: str) -> str:
    first, newline, _ = content.strip(SPACE).replace("\r\n", "\n").partition("\n")
    return first + ("..." if newline else "")


def _name(conversion: Conversion, scope: Scope, shown: str, mounts: list[MountOptions]) -> str:
    from inlay.dockerfile.scope import step_name

    masked = {mount.env: "****" for mount in mounts if mount.type == "secret" and mount.env is not None}
    env = {**scope.env, **masked} if masked else scope.env
    text = scope.command_text(conversion.display_lexer, shown, env)
    stage = scope.stage
    multi = conversion.options.multi_platform
    return step_name(stage, text, stage.state.platform, scope.env, multi=multi, trigger=scope.step.is_trigger)


def _with_arguments(scope: Scope, arguments: tuple[str, ...]) -> str:
    """The command line behind the ARGs declared so far, as history has it: `|1 A=b /bin/sh -c …`."""
    values: dict[str, str] = {}
    for argument in scope.stage.arguments:
        value = scope.env.get(argument.name)
        values[argument.name] = (argument.default or "") if value is None else value
    words = [f"{name}={value}" for name, value in values.items()]
    return " ".join([f"|{len(words)}", *words, *arguments] if words else arguments)


class _Running:
    """Collects the mounts of one RUN."""

    __slots__ = ("_conversion", "_options", "_scope", "_sockets", "mounts", "secret_env", "specials")

    def __init__(self, conversion: Conversion, scope: Scope, options: list[MountOptions]) -> None:
        self._conversion = conversion
        self._scope = scope
        self._options = options
        self.mounts: list[DraftMount] = []
        self.specials: list[ops.Mount] = []
        self.secret_env: list[ops.SecretEnv] = []
        self._sockets: list[ops.Mount] = []

    def add_mounts(self) -> None:
        for option, source in zip(self._options, self._scope.step.sources, strict=True):
            if not option.source_stage and option.type == "cache":
                option = option._replace(source_stage="scratch")
            self._add(option, source)
        self.specials += self._sockets

    def all_mounts(self, root: Draft | None) -> list[DraftMount]:
        return [DraftMount(ops.Mount(dest="/"), root, keep=True), *self.mounts]

    def add_shm(self) -> None:
        size = self._conversion.options.shm_size
        if size > 0:
            tmpfs = ops.Mount(dest="/dev/shm", type=ops.TMPFS, tmpfs=ops.TmpfsOption(size))
            self.mounts.append(DraftMount(tmpfs))

    def op(self, arguments: tuple[str, ...], instruction: Run) -> ops.ExecOp:
        options, state = self._conversion.options, self._scope.stage.state
        meta = ops.Meta(
            arguments,
            self._env(),
            state.directory,
            state.user,
            self._conversion.proxy_env,
            options.extra_hosts,
            state.hostname,
            options.ulimits,
            options.cgroup_parent,
            remove_mount_stubs=True,
        )
        return ops.ExecOp(
            meta,
            network=_NETWORKS.get(instruction.network, state.network),
            security=ops.SECURITY_INSECURE if instruction.security == "insecure" else ops.SECURITY_SANDBOX,
            secret_env=tuple(self.secret_env),
        )

    def _env(self) -> tuple[str, ...]:
        env = self._scope.env
        if self._sockets and "SSH_AUTH_SOCK" not in env:
            env = {**env, "SSH_AUTH_SOCK": self._sockets[0].dest}
        lacks_path = SETS_DEFAULT_PATH in self._conversion.options.missing and "PATH" not in env
        if lacks_path and self._conversion.target_platform.os != "windows":
            env = {**env, "PATH": DEFAULT_PATH}
        return tuple([f"{name}={value}" for name, value in env.items()])

    def _add(self, option: MountOptions, source: StageBuild) -> None:
        if option.source_stage and not source.dispatched:
            raise ValueError(
                f"cannot mount from stage {quote(option.source_stage)} to {quote(option.target)}, "
                "stage needs to be defined before current command"
            )
        if option.type == "secret":
            self._add_secret(option)
        elif option.type == "ssh":
            self._add_socket(option)
        else:
            self._add_tree(option, source)

    def _add_tree(self, option: MountOptions, source: StageBuild) -> None:
        tree = source.state.root if option.source_stage else self._conversion.build_context
        if option.type == "tmpfs":
            tree = None
        target = option.target
        if not clean(target).startswith("/"):
            target = join("/", self._scope.stage.state.directory, target)
        if target == "/":
            raise ValueError(f"invalid mount target {quote(target)}")
        selector = join("/", option.source)
        used_paths = source.paths if option.source_stage else self._scope.stage.context_paths
        used_paths.add(selector)
        if selector == "/":
            selector = ""
            if (option.uid, option.gid, option.mode) != (None, None, None):
                tree, selector = _owned_cache(tree, option), "/cache"
        mount = ops.Mount(dest=target, selector=selector, readonly=option.readonly)
        keep = option.type == "bind" and BIND_WITHOUT_OUTPUT in self._conversion.options.missing
        if option.type == "cache":
            mount = mount._replace(type=ops.CACHE, cache=self._cache_option(option))
        elif option.type == "tmpfs":
            mount = mount._replace(type=ops.TMPFS, tmpfs=ops.TmpfsOption(option.size))
        self.mounts.append(DraftMount(mount, tree, keep))

    def _cache_option(self, option: MountOptions) -> ops.CacheOption:
        name = option.id or clean(option.target)
        namespace = self._conversion.options.cache_namespace
        return ops.CacheOption(f"{namespace}/{name}", _SHARINGS[option.sharing])

    def _add_secret(self, option: MountOptions) -> None:
        identity = option.source or option.id
        if not identity:
            identity = base_name(option.target)
        self._scope.stage.outline.secrets.setdefault(identity, (option.required, self._scope.location))
        if option.env is not None:
            self.secret_env.append(ops.SecretEnv(identity, option.env, not option.required))
            if not option.target:
                return
        dest = option.target or "/run/secrets/" + base_name(identity)
        secret = _secret_option(identity, option, 0o400)
        self.specials.append(ops.Mount(ops.EMPTY, dest=dest, type=ops.SECRET, secret=secret))

    def _add_socket(self, option: MountOptions) -> None:
        if option.source:
            raise ValueError("ssh does not support source")
        identity = option.id or "default"
        self._scope.stage.outline.ssh.setdefault(identity, (option.required, self._scope.location))
        dest = option.target or f"/run/buildkit/ssh_agent.{len(self._sockets)}"
        socket = _secret_option(option.id, option, 0o600)
        self._sockets.append(ops.Mount(ops.EMPTY, dest=dest, type=ops.SSH, ssh=socket))


def _secret_option(identity: str, option: MountOptions, mode: int) -> ops.SecretOption:
    return ops.SecretOption(
        identity,
        option.uid or 0,
        option.gid or 0,
        mode if option.mode is None else option.mode,
        not option.required,
    )


def _owned_cache(tree: Draft | None, option: MountOptions) -> Draft:
    """The tree with a folder of the wanted owner and mode in it, for the cache to begin with."""
    owner = ops.Owner(ops.User(id=option.uid or 0), ops.User(id=option.gid or 0))
    mode = 0o755 if option.mode is None else option.mode & 0o777
    make = ops.MakeDirectory("/cache", mode, owner=owner, timestamp=-1)
    return FileDraft(tree, [(make, None)], Notes("[internal] setting cache mount permissions"))
