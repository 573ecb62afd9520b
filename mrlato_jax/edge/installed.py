"""Loads applications that are installed on this machine, by module, file or ONNX network."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from mrlato_jax.edge.application import Application
from mrlato_jax.errors import InputError, escaped, shorten

LONGEST_TEXT = 300  # characters of an error


def load(spec: str) -> Application:
    """Loads an application.

    Args:
        spec: "package.module:name" or "folder/file.py:name", where `name` is the `Application` in it, by default `app`;
            or "model.onnx:PARTS:DIM=SIZE", a network cut into PARTS parts, as in `onnx_parts.application_at`.

    Raises:
        InputError: the module, file or application does not exist, or its code raises an exception.
    """
    place, _, name = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    accepted = "accepted: package.module:name or file.py:name of an Application, or model.onnx"
    if not place:
        raise InputError(f"app is {shorten(spec)}; {accepted}")
    if place.endswith(".onnx"):
        from mrlato_jax.edge.onnx_parts import application_at  # needs onnx; other applications do not

        return application_at(place, name)
    try:
        if place.endswith(".py"):
            module_spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert module_spec is not None
            assert module_spec.loader is not None
            module = importlib.util.module_from_spec(module_spec)
            module_spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except Exception as error:  # the application's code may raise any exception
        text = escaped(f"{type(error).__name__}: {error}")[:LONGEST_TEXT]
        raise InputError(f"app is {shorten(spec)}, which cannot be loaded ({text}); {accepted}") from None
    app = getattr(module, name or "app", None)
    if not isinstance(app, Application):
        raise InputError(f"app is {shorten(spec)}, where there is no such Application; {accepted}")
    return app
