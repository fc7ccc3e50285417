"""Compile the native engine with the C++ compiler of this machine; needs nothing but Python.

``pip install`` does it where there is a compiler. ``python -m magic_pyramid.native.build`` does it later.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

SOURCES = Path(__file__).parent
LIBRARY = "_native.so"
"""File of the compiled engine, beside the sources."""
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-pthread", "-w")
_ALWAYS = ("engine", "isa_portable")
_ON_X86 = {
    "isa_avx2": ("-mavx2", "-mfma"),
    "isa_avx512_vnni": (
        "-mavx2",
        "-mfma",
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mavx512vnni",
    ),
}


class BuildError(Exception):
    """There is no compiler, it failed, or the library cannot be written."""


def source_hash() -> str:
    """What tells one version of the sources from another."""
    digest = hashlib.sha256()
    for path in sorted((*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h"), SOURCES / "build.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def compile_engine(folder: Path = SOURCES) -> Path:
    """Compile the engine into a folder and give the library's path.

    Raises:
        BuildError: no compiler is found, or it fails; its message is in the error.
    """
    compiler = _compiler()
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    units = dict.fromkeys(_ALWAYS, ()) | (_ON_X86 if is_x86 else {})
    with tempfile.TemporaryDirectory() as name:
        objects = [Path(name) / f"{unit}.o" for unit in units]
        commands = [
            [
                *compiler,
                *_FLAGS,
                *flags,
                f'-DMP_SOURCE_HASH="{source_hash()}"',
                "-c",
                str(SOURCES / f"{unit}.cpp"),
                "-o",
                str(target),
            ]
            for (unit, flags), target in zip(units.items(), objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as workers:
            list(workers.map(_run, commands))
        # The portable objects come first: of functions that several objects hold, the linker takes the first,
        # which every processor can run.
        built = Path(name) / LIBRARY
        _run([*compiler, "-shared", "-pthread", *map(str, objects), "-o", str(built)])
        # Renamed into place, so that a process that has the old one loaded keeps it whole.
        staged = folder / f".{LIBRARY}.{os.getpid()}"
        try:
            shutil.copyfile(built, staged)
            staged.replace(folder / LIBRARY)
        except OSError as error:
            with suppress(OSError):
                staged.unlink()
            raise BuildError(f"{folder / LIBRARY} cannot be written: {error}") from error
    return folder / LIBRARY


def _compiler() -> list[str]:
    chosen = os.environ.get("CXX")
    if chosen:
        return shlex.split(chosen)
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise BuildError("no C++ compiler is found; install g++ or clang++, or name one with CXX=...")


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error}") from error
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{shlex.join(command)} failed:\n{error.stderr}") from error


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{compile_engine()}\n")
    except BuildError as failure:
        sys.exit(f"error: {failure}")
