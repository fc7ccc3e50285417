"""Build hook: compile the native engine where there is a C++ compiler, and go on without it where not."""

import runpy
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

NATIVE = Path(__file__).parent / "src" / "magic_pyramid" / "native"


class NativeEngineHook(BuildHookInterface):
    """Adds the compiled engine to the wheel, which then is for this platform only."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile beside the sources, so that an editable installation finds it too."""
        build = runpy.run_path(str(NATIVE / "build.py"))
        try:
            built = build["compile_engine"]()
        except build["BuildError"] as error:
            sys.stderr.write(f"magic-pyramid is installed without its native engine: {error}\n")
            return
        build_data["artifacts"].append(built.relative_to(self.root).as_posix())
        build_data["pure_python"] = False
        # Called through ctypes, it does not depend on the version of Python.
        own = (
            tag.platform
            for tag in sys_tags()
            if "linux_" not in tag.platform or tag.platform.startswith("linux")
        )
        build_data["tag"] = f"py3-none-{next(own)}"
