"""What a stage is while its instructions are read: a tree so far, and how the next process would run on it."""

from __future__ import annotations

from inlay.golang.patterns import join
from inlay.llb.ops import NETWORK_SANDBOX
from inlay.platform import normalise
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inlay.dockerfile.drafts import Draft
    from inlay.dockerfile.image import Image
    from inlay.platform import Platform


class State:
    """A tree (`root`, None is scratch) and its surroundings (BuildKit: client/llb's `State`).

    `env` is in the order of the last assignment. `platform` is normalised; None until something sets it.
    """

    __slots__ = ("directory", "env", "hostname", "network", "platform", "root", "user")

    def __init__(self, root: Draft | None = None, platform: Platform | None = None) -> None:
        self.root = root
        self.env: dict[str, str] = {}
        self.directory = "/"
        self.user = self.hostname = ""
        self.network = NETWORK_SANDBOX
        self.platform = normalise(platform) if platform is not None else None

    def copy(self) -> State:
        """A state that changes without changing this one."""
        state = State(self.root)
        state.env = self.env.copy()
        state.directory, state.user, state.hostname = self.directory, self.user, self.hostname
        state.network, state.platform = self.network, self.platform
        return state

    def set_env(self, name: str, value: str) -> None:
        self.env.pop(name, None)
        self.env[name] = value

    def change_directory(self, path: str) -> None:
        self.directory = path if path.startswith("/") else join(self.directory or "/", path)

    def take_config(self, image: Image) -> None:
        """Take over an image's variables, working directory and platform."""
        for entry in image.env:
            name, _, value = entry.partition("=")
            if name:
                self.set_env(name, value)
        self.change_directory(image.working_dir)
        if image.platform.architecture and image.platform.os:
            self.platform = normalise(image.platform)
