"""What a RUN step sees besides its root: bind, cache, tmpfs, secret and ssh mounts
(BuildKit: solver/llbsolver/mounts/mount.go, solver/llbsolver/ops/exec.go)."""

from __future__ import annotations

from inlay.actions.cachemounts import cache_name
from inlay.errors import SolveError
from inlay.executor.executor import Bind, Tmpfs
from inlay.llb.ops import BIND, CACHE, EMPTY, NO_OUTPUT, SECRET, SSH, TMPFS, ExecOp
from inlay.refs.ref import SCRATCH, Ref
from inlay.tasks import in_thread
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from inlay.actions.cachemounts import CacheMount
    from inlay.actions.secrets import SecretFile
    from inlay.actions.sshagent import AgentSocket
    from inlay.actions.worker import Result, Worker
    from inlay.executor.executor import Mount as RunMount
    from inlay.llb.ops import CacheOption, Mount
    from inlay.snapshot.snapshotter import Active
    from inlay.trees.tree import Tree


class StepMounts:
    """The mounts of one step. Leaving the `with` block undoes what was not committed."""

    def __init__(self, worker: Worker, op: ExecOp, inputs: Sequence[Result]) -> None:
        self._worker = worker
        self._op = op
        self._inputs = inputs
        self._held: list[Callable[[], None]] = []
        """What lets go of the mounts, in the order in which they were made."""
        self._caches: dict[str, CacheMount] = {}
        self._root: Active | None = None
        self._base = SCRATCH
        self.mounts: list[RunMount] = []
        self.readonly_root = False

    @property
    def root(self) -> int:
        """The detached mount of the root file system."""
        assert self._root is not None
        return self._root.fd

    @property
    def path(self) -> str:
        """A folder on the disk that the step writes to."""
        assert self._root is not None
        return self._root.path

    def root_tree(self) -> Tree:
        """The root file system, to look things up in."""
        from inlay.trees.tree import Tree

        assert self._root is not None
        return Tree.at(self._root.path)

    async def __aenter__(self) -> StepMounts:
        try:
            await self._take_caches()
            ssh = 0
            for mount in self._op.mounts:
                if mount.dest == "/":
                    await self._take_root(mount)
                elif mount.type == SSH:
                    await self._add_ssh(mount, ssh)
                    ssh += 1
                else:
                    await self._add(mount)
            if self._root is None:
                raise SolveError("an exec op needs a mount at /")
        except BaseException:
            await self._release()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._release()

    async def commit(self, description: str) -> Ref:
        """Keep what the step wrote as a layer on top of its root's input."""
        assert self._root is not None
        refs, base = self._worker.refs, self._base
        lower = await refs.mounted.view(base) if base.layers else None
        directory = await in_thread(self._root.commit, lower, limiter=self._worker.disk)
        self._root = None
        layer = refs.add_directory(
            directory, description=description, base=base, created_ns=self._worker.clock()
        )
        return Ref((*base.layers, layer))

    async def _release(self) -> None:
        if self._root is not None:
            self._held.append(self._root.discard)
            self._root = None
        held, self._held = self._held, []
        if held:  # no limiter: a step that is cancelled while it waits for its turn would keep all it has
            await in_thread(_release_all, held[::-1])

    def _input(self, mount: Mount) -> Result:
        return SCRATCH if mount.input == EMPTY else self._inputs[mount.input]

    async def _take_root(self, mount: Mount) -> None:
        self._base = await self._worker.as_layers(self._input(mount))
        self._root = await self._worker.refs.mounted.prepare(self._base)
        self.readonly_root = mount.readonly

    async def _add(self, mount: Mount) -> None:
        if mount.type == BIND:
            await self._add_bind(mount)
        elif mount.type == CACHE:
            await self._add_cache(mount)
        elif mount.type == TMPFS:
            if mount.selector not in ("", "/"):
                raise SolveError(
                    f"{mount.selector}: not found in the new tmpfs at {mount.dest}; leave the source out"
                )
            size = mount.tmpfs.size if mount.tmpfs is not None else 0
            self.mounts.append(Tmpfs(mount.dest, size))
        elif mount.type == SECRET:
            await self._add_secret(mount)
        else:
            raise SolveError(f"mount type {mount.type} is not supported")

    async def _add_bind(self, mount: Mount) -> None:
        """A tree to look at. What a writable one gets is dropped, unless it is an output of the op."""
        if not mount.readonly and mount.output != NO_OUTPUT:
            raise SolveError(f"mount {mount.dest}: a second output of an exec op is not supported")
        refs = self._worker.refs
        ref = await self._worker.as_layers(self._input(mount))
        if mount.readonly and ref.layers:
            view = await refs.mounted.own_view(ref)
            self._held.append(view.close)
            self.mounts.append(Bind(mount.dest, view.fd, mount.selector, readonly=True))
        else:
            active = await refs.mounted.prepare(ref)
            self._held.append(active.discard)
            self.mounts.append(Bind(mount.dest, active.fd, mount.selector, readonly=mount.readonly))

    async def _take_caches(self) -> None:
        """Take each cache folder of the step once, and all steps in one order: none waits for another one that
        waits for it, or for itself."""
        wanted: dict[str, tuple[CacheOption, Ref | None]] = {}
        for mount in self._op.mounts:
            if mount.type == CACHE:
                option, base = await self._cache_of(mount)
                wanted.setdefault(cache_name(option, base), (option, base))
        for name, (option, base) in sorted(wanted.items(), key=lambda item: item[0]):
            self._caches[name] = cache = await self._worker.cache_mounts.take(option, base)
            self._held.append(cache.release)

    async def _cache_of(self, mount: Mount) -> tuple[CacheOption, Ref | None]:
        if mount.cache is None:
            raise SolveError(f"cache mount {mount.dest} has no cache options")
        if mount.input == EMPTY:
            return mount.cache, None
        return mount.cache, await self._worker.as_layers(self._inputs[mount.input])

    async def _add_cache(self, mount: Mount) -> None:
        cache = self._caches[cache_name(*await self._cache_of(mount))]
        self.mounts.append(Bind(mount.dest, cache.path, mount.selector, readonly=mount.readonly))

    async def _add_secret(self, mount: Mount) -> None:
        if mount.secret is None:
            raise SolveError(f"secret mount {mount.dest} has no secret options")
        secret = await in_thread(self._worker.secrets.mount, mount.secret, discard=_close)
        if secret is not None:
            self._held.append(secret.close)
            self.mounts.append(Bind(mount.dest, secret.fd, secret.name, readonly=True, only_data=True))

    async def _add_ssh(self, mount: Mount, number: int) -> None:
        if mount.ssh is None:
            raise SolveError(f"ssh mount {mount.dest} has no ssh options")
        dest = mount.dest or f"/run/buildkit/ssh_agent.{number}"
        from inlay.actions.sshagent import NAME as AGENT

        agent = await in_thread(self._worker.secrets.agent, mount.ssh, discard=_close)
        if agent is not None:
            self._held.append(agent.close)
            self.mounts.append(Bind(dest, agent.fd, AGENT, only_data=True))


def _close(made: AgentSocket | SecretFile | None) -> None:
    if made is not None:
        made.close()


def _release_all(held: Sequence[Callable[[], None]]) -> None:
    """Call each of `held`, whatever becomes of the others, and then raise the first error."""
    errors: list[BaseException] = []
    for let_go in held:
        try:
            let_go()
        except BaseException as error:
            errors.append(error)
    if errors:
        raise errors[0]
