"""Names of published models: found in the libraries' caches, fetched only where the user asks, refused in one line otherwise."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

import toy
from cmapkd.config.sources import DOWNLOAD, TowerConfig
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.towers import named
from cmapkd.towers.load import load_tower
from cmapkd.towers.sources import downloads
from cmapkd.towers.sources.open_clip import build
from towers.tokens.toy_tokenizers import unigram

SMALL = "cmapkd-small-64"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of huggingface_hub, and loaders that fail the test when they are called."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(downloads, "CLIP_CACHE", tmp_path / "clip")
    monkeypatch.delenv(DOWNLOAD, raising=False)

    def never(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", never)
    monkeypatch.setattr("open_clip.pretrained.download_pretrained", never)
    return tmp_path / "hub"


def cached(hub: Path, name: str, files: dict[str, bytes]) -> Path:
    """A model in the layout of huggingface_hub's cache."""
    place = hub / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text("c0ffee")
    snapshot = place / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        (snapshot / file).write_bytes(data)
    return snapshot


def published(monkeypatch, **cfg):
    """One tag of the shipped small architecture in open_clip's table."""
    from open_clip import pretrained

    whole = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "url": "", "hf_hub": "", **cfg}
    monkeypatch.setitem(pretrained._PRETRAINED, SMALL, {"some_tag": whole})


def weights(folder: Path, name: str = "w.safetensors", seed: int = 0, **change) -> Path:
    torch.manual_seed(seed)
    clip = build(named.architecture_config(SMALL) | change)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in clip.state_dict().items()}, str(folder / name))
    return folder / name


def test_a_tag_that_is_not_here_is_refused_with_what_to_fetch_and_where_to_put_it(hub, monkeypatch):
    published(monkeypatch, hf_hub="org/small/")
    with pytest.raises(UsageError) as caught:
        named.identity(TowerConfig(model=f"{SMALL}/some_tag"))
    line = str(caught.value)
    assert "fetch org/small" in line and "weights: FILE" in line and "download: true" in line and "\n" not in line
    published(monkeypatch, url="https://example.org/openaipublic/abc/small.pt")
    with pytest.raises(UsageError, match=r"fetch https://example.org/openaipublic/abc/small.pt into .*clip/small.pt"):
        load_tower(TowerConfig(model=f"{SMALL}/some_tag"))
    with pytest.raises(UsageError, match="publishes no 'other' of .*; there are: some_tag"):
        named.split(TowerConfig(model=f"{SMALL}/other"))


def test_a_tag_in_the_cache_is_read_without_network_with_its_own_pixels_and_activation(
    hub, monkeypatch, tmp_path, capsys
):
    file = weights(tmp_path, quick_gelu=True)
    snapshot = cached(hub, "org/small", {"open_clip_model.safetensors": file.read_bytes()})
    published(monkeypatch, hf_hub="org/small/", quick_gelu=True)
    tower = load_tower(TowerConfig(model=f"{SMALL}/some_tag"))
    assert tower.package.config["quick_gelu"] is True and tower.image.mean == (0.1, 0.2, 0.3)
    assert "built with QuickGELU" in capsys.readouterr().err
    found = named.split(TowerConfig(model=f"{SMALL}/some_tag"))
    assert found == (SMALL, snapshot / "open_clip_model.safetensors")
    assert (
        named.identity(TowerConfig(model=f"{SMALL}/some_tag"))["weights"]
        == hashlib.sha256(file.read_bytes()).hexdigest()
    )


@pytest.mark.parametrize("way", ["key", "option"])
def test_a_tag_is_fetched_by_open_clips_loader_where_it_is_asked_for(hub, monkeypatch, tmp_path, way):
    file, asked = weights(tmp_path), []
    published(monkeypatch, hf_hub="org/small/")
    monkeypatch.setattr(
        "open_clip.pretrained.download_pretrained", lambda cfg: asked.append(cfg["hf_hub"]) or str(file)
    )
    if way == "option":
        monkeypatch.setenv(DOWNLOAD, "1")
    config = TowerConfig(model=f"{SMALL}/some_tag", download=way == "key")
    assert named.split(config) == (SMALL, file) and asked == ["org/small/"]


def test_a_failed_download_is_one_line(hub, monkeypatch):
    def broken(_):
        raise ConnectionError("no\nroute")

    published(monkeypatch, hf_hub="org/small/")
    monkeypatch.setattr("open_clip.pretrained.download_pretrained", broken)
    with pytest.raises(UsageError, match=r"the download failed \(ConnectionError: no route\)"):
        named.split(TowerConfig(model=f"{SMALL}/some_tag", download=True))


def test_a_cached_file_with_another_checksum_than_the_published_one_is_refused(hub, monkeypatch, tmp_path):
    file = weights(tmp_path / "clip", "small-01234567.pt")
    published(monkeypatch, url="https://example.org/mlfoundations/small-01234567.pt")
    with pytest.raises(IntegrityError, match="does not begin with the published 01234567"):
        named.split(TowerConfig(model=f"{SMALL}/some_tag"))
    right = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    file.rename(file.with_name(f"small-{right}.pt"))
    published(monkeypatch, url=f"https://example.org/mlfoundations/small-{right}.pt")
    assert named.split(TowerConfig(model=f"{SMALL}/some_tag"))[1] == file.with_name(f"small-{right}.pt")


def hub_model(hub: Path, tmp_path: Path) -> Path:
    config = named.architecture_config(SMALL)
    whole = json.dumps({"model_cfg": config, "preprocess_cfg": {}}).encode()
    data = weights(tmp_path).read_bytes()
    return cached(hub, "org/name", {"open_clip_config.json": whole, "open_clip_model.safetensors": data})


def test_a_model_of_the_hub_is_the_folder_in_its_cache(hub, tmp_path):
    with pytest.raises(UsageError, match="fetch it with `hf download org/name`"):
        named.split(TowerConfig(model="hf-hub:org/name"))
    folder = hub_model(hub, tmp_path)
    tower = load_tower(TowerConfig(model="hf-hub:org/name"))
    assert tower.size == 64 and named.image_size(TowerConfig(model="hf-hub:org/name")) == 64
    assert named.identity(TowerConfig(model="hf-hub:org/name")) == named.identity(
        TowerConfig(model=f"local-dir:{folder}")
    )
    with pytest.raises(UsageError, match="is no name of the Hugging Face hub"):
        named.split(TowerConfig(model="hf-hub:a/b/c"))


def test_a_model_of_the_hub_is_fetched_where_it_is_asked_for(hub, monkeypatch, tmp_path):
    asked = []

    def fetch(name, allow_patterns):
        asked.append((name, tuple(allow_patterns)))
        return str(hub_model(hub, tmp_path))

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert load_tower(TowerConfig(model="hf-hub:org/name", download=True)).size == 64
    assert [name for name, _ in asked] == ["org/name"] and "*.bin" not in asked[0][1] and "*.py" not in asked[0][1]


def test_the_tokenizer_of_an_architecture_is_read_from_the_hubs_cache_where_it_is_there(hub, tmp_path):
    config = TowerConfig(model="ViT-B-16-SigLIP")
    assert named.tokenizer_folder_of(config) is None
    made = unigram(tmp_path / "t")
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    assert named.tokenizer_folder_of(config) is None
    assert named.tokenizer_folder_of(config) != cached(hub, "timm/ViT-B-16-SigLIP", files)
    assert named.tokenizer_folder_of(config) == hub / "models--timm--ViT-B-16-SigLIP" / "snapshots" / "c0ffee"


def test_a_hugging_face_folder_may_be_named_as_such(tmp_path):
    assert named.split(TowerConfig(model=f"hf:{tmp_path}")) == (f"local-dir:{tmp_path}", None)
    with pytest.raises(UsageError, match="not found"):
        load_tower(TowerConfig(model=f"hf:{tmp_path / 'none'}"))


@pytest.mark.parametrize(
    ("architecture", "file", "quick"),
    [
        ("ViT-B-32", "laion400m_e32.pt", True),
        ("ViT-B-32", "vit_b_32-quickgelu-laion400m_e31-d867053b.pt", True),
        ("ViT-B-32", "metaclip-400m.pt", True),
        ("ViT-B-32", "laion2b_s34b_b79k.bin", False),
        ("ViT-B-16", "dfn2b.bin", True),
        ("ViT-H-14-worldwide", "w.bin", False),
    ],
)
def test_the_name_of_a_file_says_that_it_was_trained_with_quickgelu(tmp_path, architecture, file, quick):
    from cmapkd.towers.sources.published import published_activation

    (tmp_path / file).write_bytes(b"weights")
    assert (published_activation(architecture, tmp_path / file, None) is not None) == quick


def test_a_renamed_file_is_known_by_its_checksum(tmp_path, monkeypatch):
    from cmapkd.towers.sources.published import published_activation

    (tmp_path / "mine.pt").write_bytes(b"weights")
    known = hashlib.sha256(b"weights").hexdigest()
    published(monkeypatch, url=f"https://example.org/openaipublic/{known}/small.pt", quick_gelu=True)
    assert published_activation(SMALL, tmp_path / "mine.pt", None) == "some_tag"
    (tmp_path / "mine.pt").write_bytes(b"others")
    assert published_activation(SMALL, tmp_path / "mine.pt", None) is None


def test_another_image_size_interpolates_position_embeddings_as_open_clip_does(tmp_path):
    file = weights(tmp_path)
    tower = load_tower(TowerConfig(model=f"{SMALL}:{file}", image_size=96))
    wanted = build(
        named.architecture_config(SMALL)
        | {"vision_cfg": named.architecture_config(SMALL)["vision_cfg"] | {"image_size": 96}}
    )
    open_clip.load_checkpoint(wanted, str(file))
    assert torch.equal(tower.native.visual.positional_embedding, wanted.visual.positional_embedding)
    assert tower.size == 96 and tower.package.config["vision_cfg"]["image_size"] == 96
    pixels = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(tower.eval().image.encode(pixels), wanted.eval().encode_image(pixels))
    plain, other = TowerConfig(model=f"{SMALL}:{file}"), TowerConfig(model=f"{SMALL}:{file}", image_size=96)
    assert named.identity(other) == named.identity(plain) | {"image_size": "96"}
    assert (named.image_size(plain), named.image_size(other)) == (64, 96)


def test_another_image_size_reaches_the_trunk_of_timm_and_makes_any_shape_square(tmp_path):
    config = toy.config(64)
    config["vision_cfg"] = {
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "token",
        "timm_proj": "linear",
        "image_size": [224, 112],
    }
    config["text_cfg"]["hf_tokenizer_name"] = "x"
    folder = unigram(tmp_path / "m")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    clip = build(config | {"vision_cfg": config["vision_cfg"] | {"image_size": 224}})
    save_file(clip.state_dict(), str(folder / "open_clip_model.safetensors"))
    with pytest.raises(UsageError, match="set image_size"):
        load_tower(TowerConfig(model=str(folder)))
    tower = load_tower(TowerConfig(model=str(folder), image_size=64))
    assert tower.size == 64 and tower.native.visual.trunk.pos_embed.shape[1] == 1 + 16
