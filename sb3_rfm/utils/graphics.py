"""OpenGL for MuJoCo, loaded when the first frame is asked for and not before.

mujoco and dm_control choose a renderer, and load its driver, when they are imported. Training draws
no frames, and a driver does harm: Mesa's brings an LLVM, and where ``import triton`` (torch's, by
the first optimizer) comes after it, triton takes that LLVM's symbols for its own and the process
dies. The other order is harmless.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from sb3_rfm.utils.preload import import_triton

VARIABLE = "MUJOCO_GL"
# where each package keeps the class of its contexts
RENDERER = ("dm_control._render", "Renderer")
CONTEXT = ("mujoco.rendering.classic.gl_context", "GLContext")
EGL_FAILS: list[str] = []
"""Why ``MUJOCO_GL``, which was not set, became ``disable``."""


def has_display() -> bool:
    """
    Whether a window can be opened here.

    :return: True unless this is a Unix without X11 and without Wayland
    """
    if sys.platform in ("win32", "cygwin", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def import_without_driver() -> None:
    """
    Import mujoco and dm_control, where they are installed, with contexts that load their driver
    when the first of them is made. What has been imported before stays as it is.
    """
    for package, (module, name) in (("mujoco", CONTEXT), ("dm_control", RENDERER)):
        if package in sys.modules or importlib.util.find_spec(package) is None:
            continue
        with _variable_set("disable"), contextlib.suppress(ImportError):
            importlib.import_module(package)
            late = _late(importlib.import_module(module), name)
            if package == "mujoco":
                vars(sys.modules[package])[name] = late  # it copies the name


def load_renderer() -> str:
    """
    Load dm_control's renderer: that of ``MUJOCO_GL``, read now; without it and without a display
    ``egl``, and none where that does not load.

    :return: its name: ``glfw``, ``egl``, ``osmesa``, or another for none
    :raises RuntimeError: the renderer that ``MUJOCO_GL`` names does not load
    """
    render = importlib.import_module(RENDERER[0])
    if getattr(render.Renderer, "is_late", False):
        _load(render)
    return str(render.BACKEND)


def load_context() -> str:
    """
    Load mujoco's own contexts, with which Gymnasium's MuJoCo environments draw, by the same rule.

    :return: the name of the renderer: ``glfw``, ``egl``, ``osmesa``, or another for none
    :raises RuntimeError: the renderer that ``MUJOCO_GL`` names does not load
    """
    module = importlib.import_module(CONTEXT[0])
    if getattr(getattr(module, CONTEXT[1], None), "is_late", False):
        _load(module)
    return os.environ.get(VARIABLE, "glfw")


def check_driver(what: str, load: Callable[[], str]) -> None:
    """
    Load a graphics driver now.

    :param what: needs it
    :param load: loads it, and gives its name
    :raises ValueError: when it does not load
    """
    try:
        if load() in ("glfw", "egl", "osmesa"):
            return
        reason = "".join(EGL_FAILS[-1:])
    except RuntimeError as error:
        reason = str(error)
    raise ValueError(missing_driver(what, reason))


def missing_driver(what: str, reason: str = "") -> str:
    """
    What to do where MuJoCo cannot be drawn.

    :param what: needs OpenGL
    :param reason: why there is none, where that is known
    :return: two sentences
    """
    return (
        f"{what} needs OpenGL, which does not load with {VARIABLE}={os.environ.get(VARIABLE)!r}"
        f"{f' ({reason})' if reason else ''}. Set {VARIABLE} to 'egl' or 'osmesa' (without a "
        "display) or 'glfw' (with one), and install that library where it is missing (on Debian "
        "and Ubuntu libegl1, libosmesa6 or libglfw3)."
    )


def _late(module: ModuleType, name: str) -> Callable[..., Any]:
    """
    Put a function in the place of a context class, until the first context is made.

    :param module: loads its driver when it is imported
    :param name: of the class in it
    :return: the function, which makes a context
    """

    def context(*args: Any, **kwargs: Any) -> Any:
        if getattr(module, name) is context:
            _load(module)
        if getattr(module, name) is context:
            raise RuntimeError(f"No frames can be drawn with {VARIABLE}={os.environ[VARIABLE]!r}.")
        return getattr(module, name)(*args, **kwargs)

    context.is_late = True  # type: ignore[attr-defined]
    setattr(module, name, context)
    return context


def _load(module: ModuleType) -> None:
    """
    Import a module again, with its driver.

    :param module: that was imported without
    :raises RuntimeError: the driver that ``MUJOCO_GL`` names does not load
    """
    import_triton()
    if VARIABLE in os.environ or has_display():
        _reload(module)
        return
    platform = os.environ.get("PYOPENGL_PLATFORM")
    os.environ[VARIABLE] = "egl"  # left unset, it would be GLFW, which needs a display
    try:
        _reload(module)
    except RuntimeError as error:
        EGL_FAILS.append(f"as 'egl' does not load: {error}")
        os.environ[VARIABLE] = "disable"
        if platform is None:
            os.environ.pop("PYOPENGL_PLATFORM", None)
        _reload(module)


def _reload(module: ModuleType) -> None:
    """
    Import a module again.

    :param module: that reads ``MUJOCO_GL``
    :raises RuntimeError: it does not load
    """
    try:
        importlib.reload(module)
    except Exception as error:  # a missing library: ImportError, AttributeError, one of PyOpenGL's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RuntimeError(reason) from error


@contextlib.contextmanager
def _variable_set(value: str) -> Iterator[None]:
    """
    Set ``MUJOCO_GL`` for a while.

    :param value: of that while
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
