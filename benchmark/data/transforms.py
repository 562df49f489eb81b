"""The papers' image transforms: for single images, and the same for whole batches on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from reclaim.strategies.backbones import KNOWN_BACKBONES, LITE0, expected_images
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from ..config import LITE_SIZE

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # SLCA's, not quite Avalanche's
CHUNK = 64 * 2**20  # pixels and channels of padded images resampled at a time

Geometry = Literal["random-resized-crop", "resize-random-crop", "resize-center-crop", "pad-random-crop", "as-is"]
ProtocolName = Literal["slca", "pilot", "mammoth", "olor", "aepg", "lite", "l2p", "inflora"]


@dataclass(frozen=True)
class ImageTransform:
    """Transforms a decoded image to a tensor, (3, size, size) float32.

    :param geometry: ``"random-resized-crop"``; ``"resize-random-crop"``: resize to ``resize`` x ``resize``, then crop
        randomly; ``"resize-center-crop"``: resize the shorter side to ``resize``, then take the centre;
        ``"pad-random-crop"``: pad an image of ``size`` x ``size`` with ``padding`` zeros on each side, then crop
        randomly; ``"as-is"``: the image must have size ``size`` x ``size``.
    :param scale: for ``"random-resized-crop"``: crop area as a fraction of the image, uniform. Its aspect ratio is
        torchvision's default.
    :param flip: probability of a horizontal flip.
    :param brightness: factor, uniform in 1 +- brightness.
    :param normalisation: mean and standard deviation of the channels; ``None`` leaves pixels in [0, 1].
    """

    geometry: Geometry
    size: int = 224
    resize: int = 256
    padding: int = 4
    scale: tuple[float, float] = (0.08, 1.0)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    flip: float = 0.0
    brightness: float = 0.0
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def reference(self) -> Callable[[Any], Tensor]:
        """torchvision's transform of one PIL image."""
        mode = InterpolationMode(self.interpolation)
        steps: list[Any] = {
            "random-resized-crop": [transforms.RandomResizedCrop(self.size, scale=self.scale, interpolation=mode)],
            "resize-random-crop": [
                transforms.Resize((self.resize, self.resize), interpolation=mode),
                transforms.RandomCrop(self.size),
            ],
            "resize-center-crop": [
                transforms.Resize(self.resize, interpolation=mode),
                transforms.CenterCrop(self.size),
            ],
            "pad-random-crop": [transforms.RandomCrop(self.size, padding=self.padding)],
            "as-is": [],
        }[self.geometry]
        if self.flip:
            steps.append(transforms.RandomHorizontalFlip(self.flip))
        if self.brightness:
            steps.append(transforms.ColorJitter(brightness=self.brightness))
        steps.append(transforms.ToTensor())
        if self.normalisation:
            steps.append(transforms.Normalize(*self.normalisation))
        return transforms.Compose(steps)

    def on_batch(self, images: Sequence[np.ndarray] | Tensor, device: str | torch.device = "cpu") -> Tensor:
        """The same transform of a batch, resampled on the device, from which nothing is read back.

        Random numbers are drawn by torchvision's own functions, image by image, from torch's global CPU generator. With
        the same seed, crops, flips and factors are therefore those of :meth:`reference`. Pixels differ by at most one
        of 255 levels where Pillow resamples rows first. Where it resamples columns first (newer versions, for tall
        images), they differ by 0.3 on average, and by several levels at edges.

        :param images: (height, width, 3) uint8 each, of any sizes; or one tensor of them, (n, height, width, 3), which
            may be on the device already.
        :return: (n, 3, size, size) on ``device``.
        """
        views = [self._view(*image.shape[:2]) for image in images]
        drawn = _sent([[*v.box, *v.resized, *v.offset, float(v.flipped), v.brightness] for v in views], device)
        copied = [tuple(images.shape[1:3])] * len(views) if isinstance(images, Tensor) else [v.box[2:] for v in views]
        pixels = torch.cat(
            [self._resample(images[chunk], views[chunk], drawn[chunk], device) for chunk in _chunks(copied)]
        )
        if self.brightness:
            pixels = (pixels * drawn[:, 9].view(-1, 1, 1, 1)).clamp(0, 255).floor()
        pixels = pixels / 255
        if self.normalisation:
            mean, std = (_sent(values, device).view(1, 3, 1, 1) for values in self.normalisation)
            pixels = (pixels - mean) / std
        return pixels

    def _view(self, height: int, width: int) -> _View:
        """The random view of an image. Draws numbers as torchvision's transforms do, in the same order."""
        box, resized, offset = (0, 0, height, width), (height, width), (0, 0)
        if self.geometry == "random-resized-crop":
            box = transforms.RandomResizedCrop.get_params(_blank(height, width), list(self.scale), [3 / 4, 4 / 3])
            resized = (self.size, self.size)
        elif self.geometry == "resize-random-crop":
            resized = (self.resize, self.resize)
            offset = transforms.RandomCrop.get_params(_blank(*resized), (self.size, self.size))[:2]
        elif self.geometry == "resize-center-crop":
            short, long = self.resize, int(self.resize * max(height, width) / min(height, width))
            resized = (short, long) if height <= width else (long, short)
            offset = (round((resized[0] - self.size) / 2), round((resized[1] - self.size) / 2))
        else:
            if (height, width) != (self.size, self.size):
                raise ValueError(f"{self.geometry!r} needs images of {self.size} x {self.size}, got {height} x {width}")
            if self.geometry == "pad-random-crop":
                padded = _blank(height + 2 * self.padding, width + 2 * self.padding)
                top, left = transforms.RandomCrop.get_params(padded, (self.size, self.size))[:2]
                offset = (top - self.padding, left - self.padding)
        flipped = bool(self.flip) and bool(torch.rand(1) < self.flip)
        brightness = 1.0
        if self.brightness:
            limits = [max(0.0, 1 - self.brightness), 1 + self.brightness]
            brightness = float(transforms.ColorJitter.get_params(limits, None, None, None)[1])
        return _View(box, resized, offset, flipped, brightness)

    def _resample(
        self,
        images: Sequence[np.ndarray] | Tensor,
        views: Sequence[_View],
        drawn: Tensor,
        device: str | torch.device,
    ) -> Tensor:
        """Crop and resize as Pillow does: rows first, rounded to whole levels each time;
        (n, 3, size, size) in 0 to 255.

        :param drawn: the numbers of the views, (n, 10) on the device: box, resized, offset, flipped, brightness.
        """
        top, left, height, width, rows, columns, down, right, flipped, _ = drawn.unbind(1)
        if isinstance(images, Tensor):
            pixels = images.to(device, non_blocking=True)
        else:
            pixels = _boxes(images, views).to(device, non_blocking=True)
            top, left = torch.zeros_like(top), torch.zeros_like(left)
        pixels = pixels.permute(0, 3, 1, 2).float()
        high, wide = pixels.shape[2:]
        along_rows = _weights(left, width, columns, right, self.size, wide, self.interpolation)
        along_rows = torch.where(flipped.view(-1, 1, 1) > 0, along_rows.flip(1), along_rows)
        along_columns = _weights(top, height, rows, down, self.size, high, self.interpolation)
        pixels = (pixels.flatten(1, 2) @ along_rows.mT).round().clamp(0, 255).unflatten(1, (3, high))
        return (along_columns.unsqueeze(1) @ pixels).round().clamp(0, 255)


@dataclass(frozen=True)
class _View:
    """View of an image: ``box`` (top, left, height, width), resized to ``resized`` (rows, columns),
    cropped from ``offset``.
    """

    box: tuple[int, int, int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    flipped: bool
    brightness: float


def _blank(height: int, width: int) -> Tensor:
    """A dummy image of that size; torchvision's functions read only its size."""
    return torch.empty(3, height, width, device="meta")


def _chunks(sizes: Sequence[tuple[int, ...]]) -> list[slice]:
    """Groups of consecutive images (height, width) that, padded to the largest of them, have at most :data:`CHUNK`
    values.
    """
    chunks, start, height, width = [], 0, 0, 0
    for i, (rows, columns) in enumerate(sizes):
        height, width = max(height, rows), max(width, columns)
        if i > start and (i + 1 - start) * 3 * height * width > CHUNK:
            chunks.append(slice(start, i))
            start, height, width = i, rows, columns
    return [*chunks, slice(start, len(sizes))]


def _boxes(images: Sequence[np.ndarray], views: Sequence[_View]) -> Tensor:
    """The boxes of the views, padded to the largest of them, (n, height, width, 3) uint8."""
    height, width = (max(view.box[i] for view in views) for i in (2, 3))
    padded = np.zeros((len(views), height, width, 3), np.uint8)
    for target, image, view in zip(padded, images, views, strict=True):
        top, left, rows, columns = view.box
        target[:rows, :columns] = image[top : top + rows, left : left + columns]
    return torch.from_numpy(padded)


def _sent(values: Any, device: str | torch.device) -> Tensor:
    """Numbers as float32 on a device."""
    return torch.tensor(values, dtype=torch.float32).to(device, non_blocking=True)


def _weights(
    first: Tensor, length: Tensor, resized: Tensor, offset: Tensor, out: int, size: int, interpolation: str
) -> Tensor:
    """Weights of the input pixels in each output pixel along one axis:
    Pillow's resampling, whose kernel widens when shrinking.

    :param first, length: (n,) the first of the input pixels, and their number. They are resized to ``resized`` (n,), of
        which ``out`` are kept, starting at ``offset`` (n,).
    :param size: number of columns of the result; those of other pixels are 0.
    :return: (n, out, size); a row outside the image is 0.
    """
    scale = (length / resized).view(-1, 1, 1)
    centre = (offset.view(-1, 1, 1) + torch.arange(out, device=length.device).view(1, -1, 1) + 0.5) * scale
    pixel = torch.arange(size, device=length.device).view(1, 1, -1) - first.view(-1, 1, 1)
    distance = ((pixel + 0.5 - centre) / scale.clamp(min=1)).abs()
    if interpolation == "bilinear":
        kernel = (1 - distance).clamp(min=0)
    else:  # Keys' cubic with a = -0.5
        near = (1.5 * distance - 2.5) * distance.square() + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        kernel = torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
    kernel = kernel * ((pixel >= 0) & (pixel < length.view(-1, 1, 1)))
    total = kernel.sum(2, keepdim=True)
    return torch.where(total.abs() > 1e-6, kernel / total, torch.zeros_like(kernel))


@dataclass(frozen=True)
class OlorTransform:
    """OLOR's transform of one PIL image: resized directly to (3, 224, 224),
    normalised with ImageNet's mean and standard deviation.

    In training it draws from torch's global generator: a flip; with probability 0.5 contrast and brightness, each
    uniform in +-0.1; with probability 0.5 a shift of +-0.01 of the side, a scale of 1 +- 0.2 and a rotation of +-10
    degrees, with 0 outside. The authors use albumentations, whose default is also bilinear resizing without
    anti-aliasing.

    :param clipped: as in the authors' code, very probably: after a change of brightness and contrast an image in 0 to
        255 is clipped to [0, 1] and then divided by 255, which makes it almost black: F15 (docs/fidelity.md).
    """

    train: bool
    clipped: bool = False
    size: int = 224

    def __call__(self, image: Any) -> Tensor:
        return self.on_batch([np.asarray(image)])[0]

    def reference(self) -> Callable[[Any], Tensor]:
        """The transform of one PIL image: itself."""
        return self

    def on_batch(self, images: Sequence[np.ndarray] | Tensor, device: str | torch.device = "cpu") -> Tensor:
        """The same transform of a batch, on the device. Random numbers are drawn image by image, so the same seed gives
        the same views.

        :param images: (height, width, 3) uint8 each, of any sizes; or one tensor of them, (n, height, width, 3), which
            may be on the device already.
        :return: (n, 3, size, size) on ``device``.
        """
        parts = [images] if isinstance(images, Tensor) else [torch.tensor(image)[None] for image in images]
        pixels = torch.cat([self._resized(part.to(device, non_blocking=True)) for part in parts])
        if self.train:
            pixels = self._augment(
                pixels, torch.stack([torch.cat([torch.rand(3), torch.empty(6).uniform_(-1, 1)]) for _ in images])
            )
        mean, std = (_sent(values, device).view(1, 3, 1, 1) for values in IMAGENET)
        return (pixels - mean) / std

    def _resized(self, images: Tensor) -> Tensor:
        """Images (n, height, width, 3) of 256 levels to (n, 3, size, size) in [0, 1]."""
        pixels = images.permute(0, 3, 1, 2).float() / 255
        return F.interpolate(pixels, (self.size, self.size), mode="bilinear", align_corners=False)

    def _augment(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        """Augment (n, 3, size, size) with the random numbers ``drawn`` (n, 9): three in [0, 1) select the changes, six
        in +-1 set their size.
        """
        flip, change, move = (drawn[:, :3] < 0.5).unbind(1)
        contrast, brightness, shift_x, shift_y, zoom, angle = drawn[:, 3:].unbind(1)
        pixels[flip] = pixels[flip].flip(3)
        factor, term = (0.1 * values[change].to(pixels.device).view(-1, 1, 1, 1) for values in (contrast, brightness))
        levels = 255 if self.clipped else 1
        pixels[change] = (levels * pixels[change] * (1 + factor) + term).clamp(0, 1) / levels
        turn = torch.deg2rad(10 * angle)
        cos, sin = turn.cos() / (1 + 0.2 * zoom), turn.sin() / (1 + 0.2 * zoom)  # the grid says where pixels come from
        x, y = -0.02 * shift_x, -0.02 * shift_y  # in half sides
        matrices = torch.stack([cos, sin, cos * x + sin * y, -sin, cos, cos * y - sin * x], dim=1).view(-1, 2, 3)[move]
        if len(matrices):
            grid = F.affine_grid(matrices.to(pixels.device), [len(matrices), *pixels.shape[1:]], align_corners=False)
            pixels[move] = F.grid_sample(pixels[move], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return pixels


Transform = ImageTransform | OlorTransform
"""A transform: ``reference()`` transforms one PIL image, ``on_batch(images, device)`` a batch of arrays."""


def transforms_of(name: ProtocolName, dataset: str, size: int | None = None) -> tuple[Transform, Transform]:
    """The transforms of a paper, or of the middle tier, for training and for testing.

    aEPG: crops of 0.05 to 1 of the area, as the paper says. LAE's code has torchvision's default of 0.08, see F21
    (docs/fidelity.md): ``dataclasses.replace(train, scale=(0.08, 1.0))``. aEPG's CIFAR experiments train from scratch,
    on 32 x 32. That they do not normalise either is our reading.

    L2P's PyTorch twin, and DualPrompt's (F35): crops of 0.05 to 1 of the area, bilinear by torchvision's default;
    tested on the centre, bicubic; pixels stay in [0, 1]. InfLoRA (F54): torchvision's default crops, all bilinear, in
    [0, 1]; its CIFAR is not cropped in testing.

    "pilot" and "mammoth" are SLCA's in these frameworks: F64 and F69. PILOT has one transform for all data sets. Of
    Mammoth's for ImageNet-R the size of the crops is SLCA's, and that the shorter side is resized in testing.

    "lite" is not from a paper: CIFAR at 96 x 96 for EfficientNet-Lite0, with the mean and standard deviation of its
    pretraining.

    :param size: pixels of a side for "lite"; a paper has its own.
    :raises ValueError: the paper does not use the data set.
    """
    if name == "olor":
        return OlorTransform(train=True), OlorTransform(train=False)
    train: ImageTransform
    test: ImageTransform
    if (name, dataset) in (("slca", "cifar100"), ("slca", "imagenet-r"), ("mammoth", "cifar100")):
        normalisation = CIFAR if dataset == "cifar100" else IMAGENET
        brightness = 63 / 255 if dataset == "cifar100" else 0.0
        test = ImageTransform("resize-center-crop", normalisation=normalisation)
        train = ImageTransform("random-resized-crop", flip=0.5, brightness=brightness, normalisation=normalisation)
        return (replace(train, interpolation="bilinear") if name == "mammoth" else train), test
    if name == "slca" and dataset in ("cub200", "cars196"):
        test = ImageTransform("resize-center-crop", normalisation=IMAGENET)
        return ImageTransform("resize-random-crop", resize=300, flip=0.5, normalisation=IMAGENET), test
    if name == "pilot" and dataset in ("cifar100", "imagenet-r", "cub200", "cars196"):
        train = ImageTransform("random-resized-crop", scale=(0.05, 1.0), interpolation="bilinear", flip=0.5)
        return train, ImageTransform("resize-center-crop")
    if name == "mammoth" and dataset == "imagenet-r":
        return ImageTransform("random-resized-crop", flip=0.5), ImageTransform("resize-center-crop")
    if name == "aepg" and dataset in ("imagenet-r", "food101", "cub200", "clrs25"):
        test = ImageTransform("resize-center-crop", interpolation="bilinear")
        return ImageTransform("random-resized-crop", scale=(0.05, 1.0), interpolation="bilinear", flip=0.5), test
    if name == "aepg" and dataset in ("cifar10", "cifar100"):
        return ImageTransform("pad-random-crop", 32, flip=0.5, interpolation="bilinear"), ImageTransform(
            "as-is", 32, interpolation="bilinear"
        )
    if name == "l2p" and dataset in ("cifar100", "imagenet-r", "cub200", "cars196"):
        test = ImageTransform("resize-center-crop")
        return ImageTransform("random-resized-crop", scale=(0.05, 1.0), interpolation="bilinear", flip=0.5), test
    if name == "inflora" and dataset in ("cifar100", "imagenet-r"):
        resize = 224 if dataset == "cifar100" else 256
        test = ImageTransform("resize-center-crop", resize=resize, interpolation="bilinear")
        return ImageTransform("random-resized-crop", interpolation="bilinear", flip=0.5), test
    if name == "lite" and dataset in ("cifar10", "cifar100"):
        normalisation = KNOWN_BACKBONES[LITE0].normalisation
        side = size or LITE_SIZE
        test = ImageTransform("resize-center-crop", side, resize=side, normalisation=normalisation)
        train = ImageTransform("random-resized-crop", side, scale=(0.5, 1.0), flip=0.5, normalisation=normalisation)
        return train, test
    raise ValueError(f"{name!r} has no experiment on {dataset!r}: see the streams in the cells of `reclaim list cells`")


def own_transforms(backbone: str | None, size: int | None = None) -> tuple[ImageTransform, ImageTransform]:
    """The transforms of images of one's own, for training and for testing.

    Training: a random crop of half to all of the area (aspect ratio 3/4 to 4/3), resized, flipped with probability 0.5:
    milder than ImageNet's 0.08 to 1, because fine-tuning on few images is short. Testing: the shorter side resized to
    8/7 of the size (256 for 224), then the centre. Both with the mean and standard deviation of the backbone's
    pretraining.

    :param backbone: its name; None: one that is not ours or timm's, which sees 224 pixels and ImageNet's normalisation.
    :param size: height and width in pixels; None: the backbone's own.
    :raises ValueError: there is no such backbone.
    """
    own_size, normalisation = expected_images(backbone) if backbone else (224, IMAGENET)
    size = size or own_size
    train = ImageTransform("random-resized-crop", size, scale=(0.5, 1.0), flip=0.5, normalisation=normalisation)
    return train, ImageTransform("resize-center-crop", size, resize=round(size * 8 / 7), normalisation=normalisation)
