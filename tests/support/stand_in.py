"""open_clip without torchvision and ftfy, for image transforms and tokenizer: model, losses and loop need neither."""

import importlib.util
import sys
import types
from importlib.machinery import ModuleSpec

NAMES = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.ops")
NAMES += ("torchvision.ops.misc", "ftfy")


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
    """The modules open_clip and open_clip_train.train, with torchvision and ftfy where they are there."""
    from transformers.utils import is_torchvision_available

    is_torchvision_available()  # it remembers the true answer
    missing = [name for name in NAMES if importlib.util.find_spec(name.partition(".")[0]) is None]
    for name in missing:
        _stand_in(name)
    try:
        return importlib.import_module("open_clip"), importlib.import_module("open_clip_train.train")
    finally:
        for name in missing:
            del sys.modules[name]


def _stand_in(name):
    module = types.ModuleType(name)
    module.__spec__, module.__path__, module.__getattr__ = ModuleSpec(name, None), [], _found
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)
