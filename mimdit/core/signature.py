"""Signature and docstring of a command's function, read from its source, so that help and error messages need no slow import."""

import ast
import inspect
from collections.abc import Callable
from copy import copy
from functools import cache, wraps
from importlib import import_module
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_LIGHT = ("__future__", "collections.abc", "cyclopts", "pathlib", "typing")
"""Modules whose imports are run to evaluate annotations."""


def stand_in(target: str, hint: Callable[[inspect.Parameter], Any] = lambda parameter: parameter.annotation) -> Callable[..., Any]:
    """Return a function that looks like ``module:function`` and, when called, imports and calls it.

    Arguments without a default become positional-only, except keyword-only ones: a list then does not consume the word of the argument
    after it.

    Args:
        target: The function, as ``module:function``.
        hint: Function of a parameter that returns the annotation to show.
    """
    declared = _declared(target)

    @wraps(declared)
    def call(*args: Any, **kwargs: Any) -> Any:
        return load(target)(*args, **kwargs)

    parameters = [_positional_if_required(parameter) for parameter in inspect.signature(declared, eval_str=True).parameters.values()]
    parameters = [parameter.replace(annotation=hint(parameter)) for parameter in parameters]
    setattr(call, "__signature__", inspect.Signature(parameters))  # noqa: B010  (a function declares no such attribute)
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def summary(target: str) -> str:
    """Return the first line of the docstring of ``module:function``."""
    node = _definition(target)
    return ((load(target).__doc__ if node is None else ast.get_docstring(node)) or "").partition("\n")[0]


def load(target: str) -> Callable[..., Any]:
    """Import ``module:function``."""
    module, function = target.split(":")
    return getattr(import_module(module), function)


def _positional_if_required(parameter: inspect.Parameter) -> inspect.Parameter:
    required = parameter.default is inspect.Parameter.empty and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    return parameter.replace(kind=inspect.Parameter.POSITIONAL_ONLY) if required else parameter


def _declared(target: str) -> Callable[..., Any]:
    """Return the function without its body, or the function itself where its signature needs more of the module."""
    module, name = target.split(":")
    node = _definition(target)
    if node is None or node.decorator_list:
        return load(target)
    imports = [each for each in _parsed(module).body if isinstance(each, ast.ImportFrom) and each.module in _LIGHT]
    bare = copy(node)
    bare.body = [ast.Expr(ast.Constant(ast.get_docstring(bare) or ""))]
    bare.returns = None
    namespace: dict[str, Any] = {}
    try:
        exec(compile(ast.fix_missing_locations(ast.Module([*imports, bare], [])), module, "exec"), namespace)
        inspect.signature(namespace[name], eval_str=True)
    except NameError:
        return load(target)
    return namespace[name]


def _definition(target: str) -> ast.FunctionDef | None:
    module, name = target.split(":")
    return next((node for node in _parsed(module).body if isinstance(node, ast.FunctionDef) and node.name == name), None)


@cache
def _parsed(module: str) -> ast.Module:
    return ast.parse(_ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
