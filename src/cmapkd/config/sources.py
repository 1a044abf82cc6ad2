"""Sections for what a run starts from: the data, both models and the teacher's cache. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from cmapkd.config.section import Fraction, Section


class DataConfig(Section, frozen=True, kw_only=True):
    """Image-text pairs: their place, and the making of training views from images.

    train, val: a captions file, an image folder, tar shards (`{00000..00010}.tar`, also behind
    https://, s3://, gs:// or hf://), a Hugging Face data set on disk, or
    `scenes:N` for N images of the built-in world; `cmapkd data inspect` shows what a path holds.
    images: the folder that image names are relative to (default: searched beside the captions file).
    train_split, val_split: the split, for a file that holds several (Karpathy), or a split list file (Flickr).
    regions: true makes each region of Visual Genome a cropped sample of its own; false makes its phrases captions of
    the whole image. views: number of fixed augmentations of each image; view v of image i has the same pixels in every
    epoch, so that cached teacher features fit it. bad_budget: largest share of unreadable images. ram_mb: memory for
    decoded images. holdout: share of the training images kept aside, for policies that learn and for validation.
    workers: number of processes that decode images during training; by default one per processor but one. 1 decodes on a
    thread of the training process. decoder: simplejpeg decodes JPEGs at a reduced scale (libjpeg-turbo's, in eighths) before
    they are resized, up to three times as fast where images are much larger than the model's; pixels differ by about two
    of 255 levels, so a cache belongs to its decoder. order: sequential reads shards one after the other, in a new order
    each epoch, and shuffles inside windows of `window` samples, for disks that are slow at random reads: a sample then
    moves less than `window` places from its place in its shard.
    copies: the folder for copies of remote shards (default: data/copies); copies_gb: their largest size together, beyond which
    the least recently used ones are deleted. checksums: a file as written by `sha256sum *.tar`, for remote shards.
    """

    train: str
    val: str | None = None
    images: Path | None = None
    format: Literal[
        "auto", "coco", "karpathy", "flickr", "csv", "folder", "webdataset", "visual_genome", "hf", "scenes"
    ] = "auto"
    train_split: str | None = None
    val_split: str | None = None
    image_key: str = "filepath"
    text_key: str = "title"
    separator: str | None = None
    classes: Path | None = None
    regions: bool = False
    views: Annotated[int, Meta(ge=1, le=64)] = 4
    crop: tuple[Fraction, Fraction] = (0.6, 1.0)
    flip: bool = False
    bad_budget: Fraction = 0.001
    ram_mb: Annotated[int, Meta(ge=0)] = 1024
    holdout: Annotated[float, Meta(ge=0.0, lt=0.5)] = 0.0
    workers: Annotated[int, Meta(ge=1, le=256)] | None = None
    decoder: Literal["pillow", "simplejpeg"] = "pillow"
    order: Literal["random", "sequential"] = "random"
    window: Annotated[int, Meta(ge=1)] = 32768
    copies: Path | None = None
    copies_gb: Annotated[float, Meta(gt=0.0)] = 50.0
    checksums: Path | None = None

    def __post_init__(self) -> None:
        low, high = self.crop
        if not 0 < low <= high:
            raise ValueError(
                f"crop is [{low:g}, {high:g}], the least and the greatest share of the area; e.g. [0.6, 1]"
            )


DOWNLOAD = "CMAPKD_DOWNLOAD"  # set to 1 by --download, so that worker processes know it too


class TowerConfig(Section, frozen=True, kw_only=True):
    """A CLIP-like model: an open_clip name, the name of a shipped small model, `local-dir:PATH`, or a checkpoint path; or an
    image model: `timm:NAME` or `torchvision:NAME`, `timm:NAME:FILE` with its weights.

    model: a folder is open_clip's (open_clip_config.json) or Hugging Face's (config.json with model.safetensors).
    Published weights are named `ARCHITECTURE/TAG` (open_clip) and `hf-hub:org/name`, a Hugging Face folder `hf:FOLDER`.
    weights: a local checkpoint for a named architecture (safetensors, open_clip `.pt`, OpenAI's `.pt`), or `random` for
    a Hugging Face folder of which only the config is used.
    tokenizer: `own` (the architecture's), `teacher`, `train:N` (a BPE of N entries trained on the training captions), or
    a folder with a tokenizer.json.
    image_size: side in pixels of the images that the image tower reads, where it is not the model's own; position
    embeddings of weights are interpolated. It also makes a model of images that are not square one of square images.
    download: fetch what the name stands for (`ViT-B-32/openai`, `hf-hub:org/name`) where it is not on this machine.
    """

    model: str
    weights: Path | None = None
    tokenizer: str = "own"
    image_size: Annotated[int, Meta(ge=8)] | None = None
    download: bool = False


class StudentConfig(TowerConfig, frozen=True, kw_only=True):
    """The model that is trained.

    inherit: initialise from the teacher's weights by a least-squares fit (towers/inherit/) instead of at random, where
    both are open_clip transformers; the text tower also needs the teacher's tokenizer. Fitted once and stored in the
    cache. Method `scratch` starts at random all the same.
    text: `teacher` keeps the teacher's own text tower, frozen, beside the image tower that `model` names: its space is the
    teacher's, and an index of text embeddings stays valid. It is the default for a `model` of images alone (`timm:NAME`,
    `torchvision:NAME`), unless the teacher is one too: then the student is an image tower alone.
    image: `teacher` keeps the teacher's own image tower, frozen, beside the text tower of the architecture that `model` names.
    Neither tower of the teacher runs in a step: its embeddings are those that the teacher gives.
    frozen: sides (`[image]` or `[text]`) whose tower does not learn; its projection to the joint space does.
    """

    inherit: bool = False
    text: Literal["own", "teacher"] | None = None
    image: Literal["own", "teacher"] = "own"
    frozen: tuple[Literal["image", "text"], ...] = ()

    def __post_init__(self) -> None:
        if self.text == self.image == "teacher":
            raise ValueError("text and image are both the teacher's, so nothing is left to train; drop one of them")
        if set(self.frozen) == {"image", "text"}:
            raise ValueError("frozen names both sides, so nothing is left to train; drop one of them")


class CacheConfig(Section, frozen=True, kw_only=True):
    """The store of teacher outputs. Without `path` the teacher runs live in every step.

    rank: principal components stored per level (a power of 2). grid: side to which spatial levels are pooled before
    storing; without it the teacher's own grid is stored. tokens: instead of a grid, store this many key tokens of P2-P4
    with their positions. sampling: how key tokens are chosen: a systematic sample with probability proportional to the
    similarity to the summary token (pps; unbiased, a separate sample for each view), or the most similar ones (topk).
    ensemble: finished caches of further teachers over the same data and views, for methods with several teachers
    (mobileclip_dr). pixels: also store every view at the student's size, 3 bytes a pixel, so that training decodes no
    image. words: most words of a text that the levels L1 and L2 keep. shard_rows: records of a file; by default chosen
    by size (store/sizes.py). workers: processes of `cmapkd cache` on this machine. read: how training reads the files:
    by memory map, or plain (a read call for each record); auto is plain on network disks.
    """

    path: Path | None = None
    rank: Annotated[int, Meta(ge=2, le=4096)] = 256
    grid: Annotated[int, Meta(ge=1, le=64)] | None = None
    tokens: Annotated[int, Meta(ge=1, le=4096)] | None = None
    sampling: Literal["pps", "topk"] = "pps"
    ensemble: tuple[Path, ...] = ()
    dtype: Literal["int8", "fp16"] = "int8"
    pixels: bool = False
    calibration_samples: Annotated[int, Meta(ge=16)] = 2048
    shard_rows: Annotated[int, Meta(ge=1)] | None = None
    workers: Annotated[int, Meta(ge=1)] = 1
    read: Literal["auto", "map", "plain"] = "auto"
    words: Annotated[int, Meta(ge=1, le=256)] = 24

    def __post_init__(self) -> None:
        if self.rank & (self.rank - 1):
            raise ValueError(f"rank is {self.rank}, but must be a power of 2 (Hadamard rotation); try 128 or 256")
        if self.grid is not None and self.tokens is not None:
            raise ValueError("grid and tokens are two ways to store less of a map; give one of them")
        if self.ensemble and self.path is None:
            raise ValueError("ensemble names further caches, but path is not set; set cache.path to the first one")
