"""open_clip without torchvision, which it imports for image transforms: model, losses and loop need none of them."""

import importlib
import sys
import types
from importlib.machinery import ModuleSpec

NAMES = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.ops")
NAMES += ("torchvision.ops.misc",)


class Anything(type):
    """A class that has whatever is asked of it, such as a way to interpolate."""

    def __getattr__(cls, name):
        return _found(name)


class Unused(metaclass=Anything):
    """Whatever is imported from a module that is not there."""


def _found(name):
    if name.startswith("_"):
        raise AttributeError(name)
    return Unused


def import_open_clip():
    """The modules open_clip and open_clip_train.train, with torchvision where it is there."""
    if "open_clip" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        from transformers.utils import is_torchvision_available

        is_torchvision_available()  # it remembers the true answer
        _stand_in()
    try:
        return importlib.import_module("open_clip"), importlib.import_module("open_clip_train.train")
    finally:
        for name in NAMES:
            if isinstance(getattr(sys.modules.get(name), "stand_in", None), bool):
                del sys.modules[name]


def _stand_in():
    for name in NAMES:
        module = types.ModuleType(name)
        module.__spec__, module.__path__, module.__getattr__, module.stand_in = ModuleSpec(name, None), [], _found, True
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
