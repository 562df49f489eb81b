"""A graph of objects as JSON and tensors, and back. No code is in it, so reading it runs none of the file's.

What pickle would write as an instruction ("import this name, call it") is here the name of something that the reader
must already hold: a class or function of its own graph of the same kind (:func:`code_in`). Any other name is refused.
Objects are made with ``__new__`` and get their attributes. Nothing that the file names is imported or called, except
the ``__setstate__`` of such a class, as that of torch's optimizers.

Objects, tensors and memory of tensors that were shared are shared again. Every object is a node, a list that begins
with its kind; a reference to node n is ``[n]``; None, truth values, numbers and texts stand for themselves.
"""

from __future__ import annotations

import base64
import copyreg
import random
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from functools import partial
from importlib import import_module
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Node = list[Any]
Code = Mapping[str, Any]
"""Classes and functions by name, such as "torch.nn.modules.linear:Linear"."""

GROWN = (
    "avalanche.benchmarks.utils.data_loader:TaskBalancedDataLoader",
    "avalanche.benchmarks.utils.flat_data:LazyIndices",
    "avalanche.models.bic_model:BiasLayer",
    "avalanche.training.storage_policy:ReservoirSamplingBuffer",
    "avalanche.training.utils:ParamData",
    "reclaim.benchmark.data.experiences:Mixed",
    "reclaim.strategies.inflora:cosine_factor",
    "torch.nn.modules.linear:Linear",
    "torch:zeros",
    "torch.optim.lr_scheduler:LRScheduler",
    "torch.utils.data._utils.collate:default_collate",
    "torch.utils.data.dataloader:DataLoader",
    "torch.utils.data.sampler:RandomSampler",
)
"""What comes into a strategy only in training: heads, schedules, memories and their loaders, importances."""


class StateError(ValueError):
    """An object that cannot be written, or a node that cannot be read."""


def code_in(thing: Any, landmarks: Sequence[Any] = ()) -> dict[str, Any]:
    """The classes and functions that a graph holds, the other classes of the modules of these classes, such as what a
    plugin keeps its statistics in, and :data:`GROWN`.

    :raises StateError: it holds something that cannot be written.
    """
    found: dict[str, Any] = {}
    encode(thing, landmarks, None, found)
    for name in GROWN:
        module, _, qualified = name.partition(":")
        found[name] = _resolve(import_module(module), qualified)
    modules = {code.__module__ for code in found.values() if isinstance(code, type)}
    for module in sorted(modules):
        if module.partition(".")[0] not in sys.stdlib_module_names:
            beside = [c for c in vars(sys.modules[module]).values() if isinstance(c, type) and c.__module__ == module]
            found.update({f"{module}:{c.__qualname__}": c for c in beside})
    return found


def encode(
    thing: Any, landmarks: Sequence[Any], known: Code | None, found: dict[str, Any] | None = None
) -> tuple[list[Node], list[torch.UntypedStorage]]:
    """The nodes of a graph, its root first, and the memory of its tensors.

    :param landmarks: objects that are not part of it, written by their number.
    :param known: what the reader will know; None: anything that a name leads to, entered in ``found``.
    :raises StateError: it holds something else, such as a lambda or an open file.
    """
    encoder = _Encoder(landmarks, known, {} if found is None else found)
    encoder.number(thing)
    for place in encoder.things:  # grows
        encoder.nodes.append(encoder.node(place))
    return encoder.nodes, encoder.storages


def decode(
    nodes: Sequence[Node], storages: Sequence[torch.UntypedStorage], landmarks: Sequence[Any], known: Code
) -> Any:
    """The graph that :func:`encode` wrote.

    :raises StateError: it names what is not known.
    """
    return _Decoder(nodes, storages, landmarks, known).root()


_PLAIN = (type(None), bool, int, float, str)
_KINDS: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_OF_TORCH = (torch.dtype, torch.memory_format, torch.layout)
_CODE = (type, types.FunctionType, types.BuiltinFunctionType)
_ALWAYS: tuple[type, ...] = (OrderedDict, defaultdict, Counter)


class _Encoder:
    def __init__(self, landmarks: Sequence[Any], known: Code | None, found: dict[str, Any]) -> None:
        self.nodes: list[Node] = []
        self.storages: list[torch.UntypedStorage] = []
        self.things: list[Any] = []  # kept alive, so that no identity comes twice
        self._numbers: dict[int, int] = {}
        self._places: dict[tuple[torch.device, int], int] = {}
        self._landmarks = {id(landmark): number for number, landmark in enumerate(landmarks)}
        self._known, self._found = known, found
        self._names = {id(code): name for name, code in (known or {}).items()}

    def number(self, thing: Any) -> int:
        if id(thing) not in self._numbers:
            self._numbers[id(thing)] = len(self.things)
            self.things.append(thing)
        return self._numbers[id(thing)]

    def value(self, thing: Any) -> Any:
        return thing if type(thing) in _PLAIN else [self.number(thing)]

    def values(self, things: Iterable[Any]) -> list[Any]:
        return [self.value(thing) for thing in things]

    def pairs(self, items: Iterable[tuple[Any, Any]]) -> list[Any]:
        return [self.value(part) for item in items for part in item]

    def node(self, thing: Any) -> Node:
        kind = type(thing)
        if id(thing) in self._landmarks:
            return ["landmark", self._landmarks[id(thing)]]
        if kind in _PLAIN:  # the root
            return ["plain", thing]
        if kind is dict:
            return ["dict", self.pairs(thing.items())]
        for name, container in _KINDS.items():
            if kind is container:
                return [name, self.values(thing)]
        if kind is deque:
            return ["deque", self.values(thing), thing.maxlen]
        if isinstance(thing, Tensor):
            return self._tensor(thing)
        if kind in (bytes, bytearray):
            return [kind.__name__, base64.b64encode(thing).decode()]
        if kind is np.ndarray or isinstance(thing, np.generic):
            return self._array(thing)
        if isinstance(thing, _CODE):
            return ["code", self._name(thing)]
        if kind is types.MethodType:
            return ["method", self.value(thing.__self__), self._name(thing.__func__)]
        if kind is partial:
            return ["partial", self.value(thing.func), self.values(thing.args), self.pairs(thing.keywords.items())]
        if kind in _OF_TORCH:
            return ["torch", str(thing).removeprefix("torch.")]
        if kind is torch.device:
            return ["device", str(thing)]
        if kind is torch.Size:
            return ["size", list(thing)]
        if kind is torch.Generator:
            return ["generator", str(thing.device), self.value(thing.get_state())]
        if kind is np.random.RandomState:
            return ["random state", self.value(thing.get_state(legacy=False))]
        if kind is np.random.Generator:
            bits = thing.bit_generator
            return ["random generator", type(bits).__name__, self.value(bits.state)]
        if kind is random.Random:
            return ["random", self.value(thing.getstate())]
        if kind is range:
            return ["range", thing.start, thing.stop, thing.step]
        if kind is datetime:
            return ["time", thing.isoformat()]
        if isinstance(thing, PurePath):
            return ["path", str(thing)]
        if isinstance(thing, Enum):
            return ["enum", self._name(kind), self.value(thing.value)]
        return self._object(thing)

    def _object(self, thing: Any) -> Node:
        if type(thing) is Counter:
            return ["object", self._name(Counter), [], None, [], self.pairs(thing.items())]
        try:
            call, arguments, state, items, pairs = (*thing.__reduce_ex__(2), None, None, None)[:5]
        except (TypeError, AttributeError) as error:
            raise StateError(str(error)) from error
        if call is copyreg.__newobj__:  # type: ignore[attr-defined]
            kind, *arguments = arguments
        elif call in _ALWAYS:
            kind = call
        else:
            raise StateError(f"a {type(thing).__module__}.{type(thing).__qualname__} is made by code of its own")
        return [
            "object",
            self._name(kind),
            self.values(arguments),
            self.value(state),
            self.values(items or ()),
            self.pairs(pairs or ()),
        ]

    def _tensor(self, tensor: Tensor) -> Node:
        if (
            type(tensor) not in (Tensor, nn.Parameter)
            or tensor.layout is not torch.strided
            or tensor.is_complex()
            or tensor.is_quantized
        ):
            raise StateError(f"a {type(tensor).__name__} of {tensor.dtype} with layout {tensor.layout}")
        storage = tensor.untyped_storage()
        place = storage.device, storage.data_ptr()
        if place not in self._places or not storage.nbytes():
            self._places[place] = len(self.storages)
            self.storages.append(storage)
        return [
            "parameter" if type(tensor) is nn.Parameter else "tensor",
            self._places[place],
            str(tensor.dtype).removeprefix("torch."),
            tensor.storage_offset(),
            list(tensor.shape),
            list(tensor.stride()),
            tensor.requires_grad,
            self.pairs(vars(tensor).items()),
        ]

    def _array(self, array: Any) -> Node:
        if array.dtype.hasobject:
            raise StateError(f"an array of objects of shape {array.shape}")
        content = base64.b64encode(array.tobytes()).decode()
        return ["array", array.dtype.str, list(array.shape), content, isinstance(array, np.generic)]

    def _name(self, code: Any) -> str:
        name = f"{code.__module__}:{code.__qualname__}"
        if code in _ALWAYS:
            return name
        if self._known is not None:
            if id(code) not in self._names:
                raise StateError(f"{name} was not in the strategy when the run began, or has no name")
            return self._names[id(code)]
        if _resolve(sys.modules.get(code.__module__), code.__qualname__) is not code:
            raise StateError(f"no name leads to {name}")
        self._found[name] = code
        return name


class _Decoder:
    """Makes first what has no parts, then what cannot change later, then fills the containers, then the objects: an
    object's ``__setstate__`` and the keys of a dictionary find what they need.
    """

    def __init__(
        self, nodes: Sequence[Node], storages: Sequence[torch.UntypedStorage], landmarks: Sequence[Any], known: Code
    ) -> None:
        self._nodes, self._storages, self._landmarks, self._known = nodes, storages, landmarks, known
        self._made: dict[int, Any] = {}

    def root(self) -> Any:
        for n in range(len(self._nodes)):
            self._make(n)
        for fill in (self._fill_container, self._fill_object):
            for n in reversed(range(len(self._nodes))):
                fill(self._made[n], *self._nodes[n])
        return self._made[0]

    def _value(self, value: Any) -> Any:
        return self._make(value[0]) if isinstance(value, list) else value

    def _values(self, values: Sequence[Any]) -> list[Any]:
        return [self._value(value) for value in values]

    def _pairs(self, pairs: Sequence[Any]) -> list[tuple[Any, Any]]:
        values = self._values(pairs)
        return list(zip(values[::2], values[1::2], strict=True))

    def _make(self, n: int) -> Any:
        if n not in self._made:
            kind, *parts = self._nodes[n]
            make: Callable[..., Any] | None = getattr(self, f"_{kind.replace(' ', '_')}_", None)
            if make is None:
                raise StateError(f"an unknown kind of node: {kind!r}")
            self._made[n] = make(*parts)
        return self._made[n]

    def _find(self, name: str) -> Any:
        if name not in self._known:
            raise StateError(f"it names {name}, which a strategy of this run does not hold")
        return self._known[name]

    # what can be made at once

    def _plain_(self, value: Any) -> Any:
        return value

    def _landmark_(self, number: int) -> Any:
        return self._landmarks[number]

    def _code_(self, name: str) -> Any:
        return self._find(name)

    def _torch_(self, name: str) -> Any:
        found = getattr(torch, name)
        if not isinstance(found, _OF_TORCH):
            raise StateError(f"torch.{name} is no kind of number or layout")
        return found

    def _device_(self, name: str) -> torch.device:
        return torch.device(name)

    def _size_(self, sizes: Sequence[int]) -> torch.Size:
        return torch.Size(sizes)

    def _bytes_(self, content: str) -> bytes:
        return base64.b64decode(content)

    def _bytearray_(self, content: str) -> bytearray:
        return bytearray(base64.b64decode(content))

    def _range_(self, *bounds: int) -> range:
        return range(*bounds)

    def _time_(self, text: str) -> datetime:
        return datetime.fromisoformat(text)

    def _path_(self, text: str) -> Path:
        return Path(text)

    def _array_(self, dtype: str, shape: Sequence[int], content: str, scalar: bool) -> Any:
        array = np.frombuffer(base64.b64decode(content), np.dtype(dtype)).reshape(shape).copy()
        return array[()] if scalar else array

    def _tensor_(self, storage: int, dtype: str, offset: int, shape: Any, stride: Any, grad: bool, _: Any) -> Tensor:
        memory, kind = self._storages[storage], self._torch_(dtype)
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if min((offset, *shape, *stride)) < 0 or (0 not in shape and (last + 1) * kind.itemsize > memory.nbytes()):
            raise StateError(f"a tensor of shape {shape} beyond its memory of {memory.nbytes()} bytes")
        tensor = torch.empty(0, dtype=kind, device=memory.device)
        return tensor.set_(memory, offset, tuple(shape), tuple(stride)).requires_grad_(grad)  # type: ignore[call-overload]

    def _parameter_(self, storage: int, dtype: str, offset: int, shape: Any, stride: Any, grad: bool, _: Any) -> Tensor:
        return nn.Parameter(self._tensor_(storage, dtype, offset, shape, stride, False, _), grad)

    # what has parts that are made before

    def _tuple_(self, values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(self._values(values))

    def _frozenset_(self, values: Sequence[Any]) -> frozenset[Any]:
        return frozenset(self._values(values))

    def _partial_(self, function: Any, arguments: Sequence[Any], keywords: Sequence[Any]) -> Any:
        return partial(self._value(function), *self._values(arguments), **dict(self._pairs(keywords)))

    def _method_(self, owner: Any, name: str) -> Any:
        return types.MethodType(self._find(name), self._value(owner))

    def _enum_(self, name: str, value: Any) -> Any:
        return self._find(name)(self._value(value))

    # what is filled later

    def _list_(self, _: Any) -> list[Any]:
        return []

    def _dict_(self, _: Any) -> dict[Any, Any]:
        return {}

    def _set_(self, _: Any) -> set[Any]:
        return set()

    def _deque_(self, _: Any, longest: int | None) -> deque[Any]:
        return deque(maxlen=longest)

    def _generator_(self, device: str, _: Any) -> torch.Generator:
        return torch.Generator(device)

    def _random_state_(self, _: Any) -> np.random.RandomState:
        return np.random.RandomState()

    def _random_generator_(self, bits: str, _: Any) -> np.random.Generator:
        kinds = {
            kind.__name__: kind for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64)
        }
        return np.random.Generator(kinds[bits]())

    def _random_(self, _: Any) -> random.Random:
        return random.Random()

    def _object_(self, name: str, arguments: Sequence[Any], *_: Any) -> Any:
        kind = next((kind for kind in _ALWAYS if name == f"{kind.__module__}:{kind.__qualname__}"), None)
        if kind:
            return kind(*self._values(arguments))
        kind = self._find(name)
        if not isinstance(kind, type) or issubclass(kind, type):
            raise StateError(f"{name} is no class of objects")
        return kind.__new__(kind, *self._values(arguments))

    def _fill_container(self, made: Any, kind: str, *parts: Any) -> None:
        if kind == "list":
            made.extend(self._values(parts[0]))
        elif kind == "dict":
            made.update(self._pairs(parts[0]))
        elif kind == "set":
            made.update(self._values(parts[0]))
        elif kind == "deque":
            made.extend(self._values(parts[0]))
        elif kind in ("tensor", "parameter"):
            vars(made).update(self._pairs(parts[-1]))

    def _fill_object(self, made: Any, kind: str, *parts: Any) -> None:
        if kind == "generator":
            made.set_state(self._value(parts[1]))
        elif kind == "random state":
            made.set_state(self._value(parts[0]))
        elif kind == "random generator":
            made.bit_generator.state = self._value(parts[1])
        elif kind == "random":
            made.setstate(self._value(parts[0]))
        elif kind == "object":
            state, items, pairs = self._value(parts[2]), self._values(parts[3]), self._pairs(parts[4])
            for item in items:
                made.append(item)
            for key, value in pairs:
                made[key] = value
            if hasattr(made, "__setstate__"):
                if state is not None:
                    made.__setstate__(state)
            else:
                attributes, slots = state if isinstance(state, tuple) else (state, None)
                vars(made).update(attributes or {}) if attributes else None
                for key, value in (slots or {}).items():
                    setattr(made, key, value)


def _resolve(module: Any, qualified: str) -> Any:
    found = module
    for part in qualified.split("."):
        found = getattr(found, part, None)
    return found
