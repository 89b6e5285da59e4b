"""Which modules sampling takes apart, because what they compute of whole sequences it computes over a cache."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from fae_core.errors import FAEError
from fae_core.ops.projections import is_hooked

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def taken_apart(module: nn.Module, kind: type[ModuleT], name: str) -> ModuleT:
    """The module of this class whose parts stand for it, out of the wrappers that `within` knows.

    Args:
        module: of the model.
        kind: its class, whose `forward` sampling replaces.
        name: of the module, for the message.

    Raises:
        FAEError: calling the module does more: it has a forward hook, or another class.
    """
    found = within(module)
    hooked = bool(found._forward_hooks or found._forward_pre_hooks)
    if hooked or type_before_parametrizations(found) is not kind:
        what = "a hook" if hooked else f"a {type(found).__name__} in its place"
        raise FAEError(
            f"{name} has {what}, which sampling would leave out: it computes a {kind.__name__} token by token from its "
            "parts, of which norms, projections and MLPs may have hooks and wrappers"
        )
    return cast(ModuleT, found)


def within(module: nn.Module) -> nn.Module:
    """The module behind wrappers without an effect of their own: torch.compile's, and peft's `modules_to_save`.

    Args:
        module: any; one that is not such a wrapper, or has hooks, is returned as it is.
    """
    while not is_hooked(module):
        inner = module._modules.get("_orig_mod")
        inner = _copy_in_use(module) if inner is None else inner
        if inner is None:
            break
        module = inner
    return module


def _copy_in_use(wrapper: Any) -> nn.Module | None:
    """What a wrapper of peft calls: the copy of its active adapter, or the module that was copied; None of others."""
    copies, original = (wrapper._modules.get(name) for name in ("modules_to_save", "original_module"))
    if not isinstance(copies, nn.ModuleDict) or original is None:
        return None
    active = wrapper.active_adapter
    active = [active] if isinstance(active, str) else active
    return copies[active[0]] if active and active[0] in copies and not wrapper.disable_adapters else original
