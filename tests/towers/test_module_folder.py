"""The folder of a student around a module: a damaged description or file of weights is one line."""

from __future__ import annotations

import pytest

from cmapkd.core.errors import UsageError
from cmapkd.towers.module_folder import CONFIG, WEIGHTS, named_module, open_module
from cmapkd.towers.sources import torchvision


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"backbone": {}, "model_cfg": {}}'])
def test_a_damaged_description_is_refused_in_one_line(tmp_path, text):
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(UsageError) as caught:
        named_module(tmp_path, "local-dir:x")
    assert "\n" not in str(caught.value) and CONFIG in str(caught.value)


def test_a_damaged_file_of_weights_is_refused_in_one_line(tmp_path):
    (tmp_path / CONFIG).write_text('{"backbone": {"source": "torchvision:shufflenet_v2_x0_5"}, "embedding": 8}')
    (tmp_path / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(UsageError, match="not a readable safetensors file"):
        open_module(tmp_path, torchvision.backbone("torchvision:shufflenet_v2_x0_5", None))
