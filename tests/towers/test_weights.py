"""Checkpoint files: tensors alone are read, no code of a file is run, and no tensor is reshaped to fit."""

from __future__ import annotations

import argparse
import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import toy
from cmapkd.core.errors import UsageError
from cmapkd.towers.sources.open_clip import build
from cmapkd.towers.sources.torchscript import Inert, _Reader
from cmapkd.towers.sources.weights import load_strict, read_state

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(2.0)}


def same(found, wanted=STATE) -> bool:
    return set(found) == set(wanted) and all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
@pytest.mark.parametrize("place", [None, "state_dict", "model", "model_state_dict"])
def test_a_training_checkpoint_gives_its_model_without_prefixes_of_wrappers(tmp_path, prefix, place):
    state = {prefix + key: value for key, value in STATE.items()}
    whole = state if place is None else {place: state, "optimizer": {"state": {}, "lr": 0.1}, "epoch": 3, "args": {}}
    torch.save(whole, tmp_path / "w.pt")
    assert same(read_state(tmp_path / "w.pt"))
    if place is None:
        save_file(state, str(tmp_path / "w.safetensors"))
        assert same(read_state(tmp_path / "w.safetensors"))


def test_a_part_compiled_alone_has_its_plain_name_and_two_of_one_name_are_refused(tmp_path):
    torch.save({"visual._orig_mod.conv": torch.ones(1)}, tmp_path / "w.pt")
    assert list(read_state(tmp_path / "w.pt")) == ["visual.conv"]
    torch.save({"a": torch.ones(1), "module.a": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match="two tensors are a without prefixes"):
        read_state(tmp_path / "w.pt")


@pytest.mark.parametrize("whole", [{"state_dict": STATE, "args": argparse.Namespace(lr=1)}, {"epoch": 3}, [1], {}])
def test_what_holds_more_or_less_than_tensors_is_refused_in_one_line(tmp_path, whole):
    torch.save(whole, tmp_path / "w.pt")
    with pytest.raises(UsageError, match="table of tensors") as caught:
        read_state(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


def test_shards_are_read_by_their_index_and_a_missing_one_is_named(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": "1.safetensors", "b": "2.safetensors"}}))
    for number, key in enumerate(STATE, 1):
        save_file({key: STATE[key]}, str(tmp_path / f"{number}.safetensors"))
    assert same(read_state(index))
    save_file({"other": torch.ones(1)}, str(tmp_path / "2.safetensors"))
    with pytest.raises(UsageError, match=r"lack 1 tensors \(first: b\)"):
        read_state(index)
    (tmp_path / "2.safetensors").unlink()
    with pytest.raises(UsageError, match=r"2.safetensors: no such file"):
        read_state(index)
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(UsageError, match="outside its own folder"):
        read_state(index)


class Archive(nn.Module):
    """A CLIP as OpenAI packed it: the towers in half precision, three numbers beside them, a mask that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = build(toy.config(64))
        self.body.visual.half()
        self.body.visual.attn_mask = torch.ones(2, 2)
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(32))

    def forward(self, ids: Tensor) -> Tensor:
        return self.body.encode_text(ids)


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_archive_gives_the_tensors_that_it_was_made_of(tmp_path):
    traced = torch.jit.trace(Archive(), (torch.zeros(1, 16, dtype=torch.long),), check_trace=False)
    bits = nn.Sequential(nn.Linear(3, 2).half(), nn.BatchNorm1d(2), nn.ModuleList([nn.Embedding(5, 2)])[0])
    for module in (traced, torch.jit.script(bits)):
        module.save(str(tmp_path / "m.pt"))
        wanted, found = torch.jit.load(str(tmp_path / "m.pt")).state_dict(), read_state(tmp_path / "m.pt")
        assert same(found, wanted) and all(found[key].dtype == wanted[key].dtype for key in wanted)
    assert any(value.dtype == torch.float16 for value in wanted.values())


class Hostile(nn.Module):
    """A module whose own loading writes a file."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path, self.weight = path, nn.Parameter(torch.ones(2))

    def forward(self) -> Tensor:
        return self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, str, bool]:
        return (self.weight, self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, str, bool]) -> None:
        self.weight = state[0]
        self.path = state[1]
        self.training = state[2]
        torch.save(state[0], state[1])


@pytest.mark.filterwarnings("ignore")
def test_the_code_of_a_hostile_archive_is_not_run(tmp_path):
    written, archive = tmp_path / "written", tmp_path / "evil.pt"
    torch.jit.script(Hostile(str(written))).save(str(archive))
    torch.jit.load(str(archive))
    assert written.is_file()  # it is hostile indeed
    written.unlink()
    with pytest.raises(UsageError, match="nothing in it was run"):
        read_state(archive)
    assert not written.exists()


@pytest.mark.parametrize(
    "attack",
    [
        lambda path: b"cos\nsystem\n(Vtouch " + str(path).encode() + b"\ntR.",
        lambda path: (
            b"\x80\x02cbuiltins\nopen\nX"
            + len(str(path)).to_bytes(4, "little")
            + str(path).encode()
            + b"X\x01\0\0\0w\x86R."
        ),
        lambda path: b"\x80\x02c__torch__.x\nM\n)\x81}X\x01\0\0\0wcos\nsystem\nsb.",
    ],
)
def test_a_pickle_inside_a_made_up_archive_calls_nothing(tmp_path, attack):
    written, archive = tmp_path / "written", tmp_path / "evil.pt"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("m/constants.pkl", b"")
        made.writestr("m/code/__torch__/x.py", b"class M(Module):\n  __parameters__ = []\n")
        made.writestr("m/data.pkl", attack(written))
    try:
        assert read_state(archive) == {}
    except UsageError as error:
        assert "nothing in it was run" in str(error)
    assert not written.exists()


@pytest.fixture(scope="module")
def clip() -> nn.Module:
    return build(toy.config(64))


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("visual.proj", lambda value: value.T),
        ("text_projection", lambda value: value.T),
        ("visual.conv1.weight", lambda value: value.permute(2, 3, 1, 0)),
        ("visual.class_embedding", lambda value: value[None]),
    ],
)
def test_a_tensor_of_another_shape_with_as_many_numbers_is_refused_with_both_shapes(clip, key, change):
    state = dict(clip.state_dict())
    given = change(state[key])
    if given.shape == state[key].shape:
        pytest.fail("the change keeps the shape")
    with pytest.raises(UsageError) as caught:
        load_strict(clip, state | {key: given}, Path("w.pt"), "toy")
    assert f"{key} is {list(given.shape)}, the model's {list(state[key].shape)}" in str(caught.value)


def test_the_scale_may_be_a_list_of_one_number_and_half_precision_becomes_float32(clip):
    state = {key: value.half() if value.is_floating_point() else value for key, value in clip.state_dict().items()}
    state |= {"logit_scale": torch.tensor([2.5]), "text.position_ids": torch.arange(3), "vocab_size": torch.tensor(64)}
    with torch.no_grad():
        load_strict(clip, state, None, "toy")
    assert float(clip.logit_scale) == 2.5 and clip.logit_scale.shape == ()
    assert clip.visual.proj.dtype == torch.float32
    assert torch.equal(clip.visual.proj, state["visual.proj"].float())
    with pytest.raises(UsageError, match="of another kind of number"):
        load_strict(clip, state | {"visual.proj": state["visual.proj"].to(torch.int8)}, None, "toy")


def test_position_embeddings_of_another_size_are_named_as_the_reason(clip):
    state = dict(clip.state_dict())
    more = torch.zeros(50, state["visual.positional_embedding"].shape[1])
    with pytest.raises(UsageError, match="another image size or context length: set image_size"):
        load_strict(clip, state | {"visual.positional_embedding": more}, None, "toy")


def test_a_tensor_larger_than_its_storage_is_refused_before_it_is_made(tmp_path):
    archive = zipfile.ZipFile(tmp_path / "empty.pt", "w")
    rebuild = Inert("global torch._utils _rebuild_tensor_v2")
    with pytest.raises(ValueError, match="1000000000000 numbers in a storage of 1"):
        _Reader(archive, "m")._made(rebuild, (torch.zeros(1), 0, (10**12,), (0,)))
