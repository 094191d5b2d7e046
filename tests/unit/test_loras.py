"""Adapters before any job: what a request may say, what a file's header says, whether it was made for the model."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headers_only import RANK, WIDE, Shapes, pair, wan, write, write_wan
from vitascope.catalog import Loras
from vitascope.catalog.cards import spec_from
from vitascope.catalog.headers import UnreadableHeader, read_header
from vitascope.domain import lora_names
from vitascope.domain.errors import InvalidParameter, ModelUnavailable
from vitascope.domain.lora_names import METADATA, Misfit, ModelLayers
from vitascope.domain.model_spec import CardLora, ModelSpec
from vitascope.domain.plan import Plan, plan
from vitascope.domain.request import GenerationRequest, Lora


def fit(tensors: Shapes, metadata: Mapping[str, str] | None = None, **model: Shapes) -> lora_names.Fit:
    return lora_names.fit(tensors, metadata or {}, ModelLayers(model or {"transformer": wan()}))


class TestNames:
    @pytest.mark.parametrize(
        ("name", "parameter"),
        [
            ("transformer.blocks.0.attn1.to_q", "blocks.0.attn1.to_q.weight"),
            ("base_model.model.blocks.1.attn1.to_q", "blocks.1.attn1.to_q.weight"),
            ("blocks.1.attn1.to_q", "blocks.1.attn1.to_q.weight"),
            ("diffusion_model.blocks.1.self_attn.q", "blocks.1.attn1.to_q.weight"),
            ("diffusion_model.blocks.0.self_attn.o", "blocks.0.attn1.to_out.0.weight"),
            ("diffusion_model.blocks.0.cross_attn.k", "blocks.0.attn2.to_k.weight"),
            ("diffusion_model.blocks.0.cross_attn.k_img", "blocks.0.attn2.add_k_proj.weight"),
            ("diffusion_model.blocks.0.ffn.0", "blocks.0.ffn.net.0.proj.weight"),
            ("diffusion_model.blocks.0.attn1.to_q", "blocks.0.attn1.to_q.weight"),
            ("lora_unet_blocks_0_self_attn_q", "blocks.0.attn1.to_q.weight"),
            ("lora_unet_blocks_0_attn1_to_q", "blocks.0.attn1.to_q.weight"),
            ("lora_transformer_blocks_0_attn1_to_out_0", "blocks.0.attn1.to_out.0.weight"),
        ],
    )
    @pytest.mark.parametrize(
        ("down", "up"),
        [
            ("lora_A.weight", "lora_B.weight"),
            ("lora_A.default.weight", "lora_B.default.weight"),
            ("lora_down.weight", "lora_up.weight"),
            ("lora.down.weight", "lora.up.weight"),
        ],
    )
    def test_a_layer_is_found_by_every_name_that_tools_have_for_it(
        self, name: str, parameter: str, down: str, up: str
    ) -> None:
        (found,) = fit(pair(name, down, up)).pairs
        assert (found.component, found.parameter) == ("transformer", parameter)
        assert (found.down, found.up) == (f"{name}.{down}", f"{name}.{up}")

    def test_the_processors_of_old_diffusers_are_left_out(self) -> None:
        name = "unet.down_blocks.0.attn1.processor.to_q_lora"
        unet = {"down_blocks.0.attn1.to_q.weight": (WIDE, WIDE)}
        (found,) = fit(pair(name, "down.weight", "up.weight"), unet=unet).pairs
        assert found.parameter == "down_blocks.0.attn1.to_q.weight"

    @pytest.mark.parametrize("begin", ["", "text_model."])
    def test_a_text_encoder_is_found_with_and_without_the_word_that_it_lost(self, begin: str) -> None:
        layer = "encoder.layers.0.self_attn.q_proj"
        model = {
            "unet": {"conv_in.weight": (4, 4, 3, 3)},
            "text_encoder": {f"{begin}{layer}.weight": (WIDE, WIDE)},
        }
        names = [f"lora_te_text_model_{layer.replace('.', '_')}", f"text_encoder.text_model.{layer}"]
        for name in (*names, f"lora_te1_{layer.replace('.', '_')}", f"text_encoder.{layer}"):
            (found,) = fit(pair(name), **model).pairs
            assert (found.component, found.parameter) == ("text_encoder", f"{begin}{layer}.weight")

    def test_of_two_denoisers_both_are_meant_unless_the_file_or_its_place_says_which(self) -> None:
        model = ModelLayers({"transformer": wan(), "transformer_2": wan()})
        bare, named = pair("diffusion_model.blocks.0.self_attn.q"), pair("transformer_2.blocks.0.attn1.to_q")

        def components(tensors: Shapes, only: str | None = None) -> list[str]:
            return [found.component for found in lora_names.fit(tensors, {}, model, only).pairs]

        assert components(bare) == ["transformer", "transformer_2"]
        assert components(bare, "transformer_2") == ["transformer_2"]
        assert components(named) == ["transformer_2"]

    def test_differences_of_norms_biases_and_modulations_are_found(self) -> None:
        found = fit(
            {
                "diffusion_model.blocks.0.self_attn.q.diff_b": (WIDE,),
                "diffusion_model.blocks.0.self_attn.norm_q.diff": (WIDE,),
                "diffusion_model.blocks.0.norm3.diff": (WIDE,),
                "diffusion_model.blocks.0.modulation.diff": (1, 6, WIDE),
                "diffusion_model.head.modulation.diff": (1, 2, WIDE),
            }
        )
        assert [part.parameter for part in found.differences] == [
            "blocks.0.attn1.to_q.bias", "blocks.0.attn1.norm_q.weight", "blocks.0.norm2.weight",
            "blocks.0.scale_shift_table", "scale_shift_table",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("values", "factor"),
        [
            ({}, 1.0),
            ({"transformer.lora_alpha": 8, "transformer.r": RANK}, 2.0),
            ({"lora_alpha": 8}, 2.0),
            ({"transformer.lora_alpha": 8, "transformer.use_rslora": True}, 4.0),
            ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"attn1.to_q": 2}}, 0.5),
            ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"^blocks.0.attn1.to_q": 2}}, 0.5),
            ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"attn2.to_k": 2}}, 2.0),
            ({"text_encoder.lora_alpha": 8}, 1.0),
        ],
    )
    def test_alpha_is_read_from_the_header(self, values: dict[str, Any], factor: float) -> None:
        header = {METADATA: json.dumps(values)}
        (found,) = fit(pair("transformer.blocks.0.attn1.to_q"), header).pairs
        assert found.factor == factor


class TestMisfits:
    @pytest.mark.parametrize(
        ("tensors", "reason"),
        [
            ({}, "holds no tensors"),
            (pair("unet.down_blocks.0.attn1.to_q"), "no layer `unet.down_blocks.0.attn1.to_q`"),
            (pair("diffusion_model.double_blocks.0.img_attn.proj"), "was made for another architecture"),
            (pair("transformer.blocks.7.attn1.to_q"), "no layer `transformer.blocks.7.attn1.to_q`"),
            (pair("transformer.blocks.0.attn1.to_q", wide=32), "as 32x32, and the model has 24x24"),
            (pair("transformer.blocks.0.attn1.norm_q"), "which the model has as no matrix"),
            ({"blocks.0.attn1.to_q.lora_A.weight": (4, 24)}, "is not complete"),
            ({"blocks.0.attn1.to_q.alpha": ()}, "is not complete"),
            (
                {"blocks.0.attn1.to_q.lora_A.weight": (4, 24), "blocks.0.attn1.to_q.lora_B.weight": (24, 8)},
                "have ranks 4 and 8",
            ),
            (
                {**pair("blocks.0.attn1.to_q"), **pair("diffusion_model.blocks.0.self_attn.q")},
                "changes `blocks.0.attn1.to_q.weight` twice, under two names",
            ),
            ({"blocks.0.attn1.to_q.diff": (24, 25)}, "as 24x25, and the model has 24x24"),
            ({"blocks.0.norm2.diff_b": (24,)}, "of which the model has none"),
            ({"lora_unet_blocks_0_attn1_to_q.hada_w1_a": (4, 24)}, "is a LoHa"),
            ({"lora_unet_blocks_0_attn1_to_q.lokr_w1": (4, 24)}, "is a LoKr"),
            ({"blocks.0.attn1.to_q.dora_scale": (24, 1)}, "is a DoRA"),
            ({"blocks.0.attn1.to_q.weight": (24, 24)}, "is no LoRA"),
            ({"a`\n\x1b[31m" + "x" * 200: (24, 24)}, "is no LoRA: it holds `a???[31mx"),
        ],
    )
    def test_each_says_what_is_wrong(self, tensors: Shapes, reason: str) -> None:
        with pytest.raises(Misfit) as caught:
            fit(tensors)
        assert reason in str(caught.value)
        assert len(str(caught.value)) < 300

    @pytest.mark.parametrize(
        "header",
        [
            "{",
            "[]",
            "[" * 200_000,
            '{"lora_alpha": []}',
            '{"alpha_pattern": 3}',
            '{"lora_alpha": "x"}',
            '{"lora_alpha": 1e999}',
            '{"lora_alpha": 1' + "0" * 400 + "}",
            '{"alpha_pattern": {"a": NaN}}',
        ],
        ids=range(9),
    )
    def test_a_header_that_cannot_be_read_is_one(self, header: str) -> None:
        with pytest.raises(Misfit, match="has a header that cannot be read"):
            fit(pair("transformer.blocks.0.attn1.to_q"), {METADATA: header})

    def test_a_dora_is_told_by_its_header(self) -> None:
        with pytest.raises(Misfit, match="is a DoRA"):
            fit(pair("transformer.blocks.0.attn1.to_q"), {METADATA: '{"transformer.use_dora": true}'})


def planned(spec: ModelSpec, *loras: Lora) -> Plan:
    return plan(GenerationRequest(prompt="a dog", model=spec.id, seed=1, loras=loras), spec)


class TestPlan:
    def test_adapters_go_into_the_plan_and_through_the_store(self, small_spec: ModelSpec) -> None:
        made = planned(small_spec, Lora("x"), Lora("y", -0.5))
        assert made.loras == (Lora("x", 1.0), Lora("y", -0.5))
        assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made
        request = GenerationRequest(prompt="a dog", model="small", loras=made.loras)
        assert GenerationRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request

    def test_rows_from_before_there_were_any_are_read(self, small_spec: ModelSpec) -> None:
        stored = json.loads(json.dumps(planned(small_spec).to_dict()))
        del stored["loras"]
        assert Plan.from_dict(stored).loras == ()
        assert GenerationRequest.from_dict({"prompt": "a dog", "model": "small"}).loras == ()

    @pytest.mark.parametrize(
        ("loras", "parameter", "nearest"),
        [
            ([Lora(str(index)) for index in range(5)], "loras", None),
            ([Lora("x"), Lora("x", 2.0)], "loras[1].name", None),
            ([Lora("x"), Lora("y", 4.5)], "loras[1].scale", "4"),
            ([Lora("x", -5)], "loras[0].scale", "-4"),
            ([Lora("x", math.nan)], "loras[0].scale", "-4"),
        ],
    )
    def test_what_cannot_be_is_refused(
        self, small_spec: ModelSpec, loras: list[Lora], parameter: str, nearest: str | None
    ) -> None:
        with pytest.raises(InvalidParameter) as caught:
            planned(small_spec, *loras)
        assert (caught.value.parameter, caught.value.nearest) == (parameter, nearest)


@pytest.fixture
def model(tmp_path: Path, small_spec: ModelSpec) -> ModelSpec:
    """A model whose checkpoint has headers and zeros."""
    return replace(small_spec, source=f"folder:{write_wan(tmp_path / 'model')}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "loras"
    made.mkdir()
    return made


class TestHeaders:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "is cut, or no safetensors file"),
            (b"12345678", "is cut, or no safetensors file"),
            (b"\xff" * 64, "is cut, or no safetensors file"),
            (b"\x80\x02}q\x00." + bytes(64), "is a pickle, which can run code, under another name"),
            (b"PK\x03\x04" + bytes(64), "is a pickle, which can run code, under another name"),
            ((2).to_bytes(8, "little") + b"[]", "cannot be read as a safetensors file"),
            ((4).to_bytes(8, "little") + b"null", "cannot be read as a safetensors file"),
            ((9).to_bytes(8, "little") + b'{"a": {}}', "cannot be read as a safetensors file"),
            ((6).to_bytes(8, "little") + b"[[[[[[", "cannot be read as a safetensors file"),
            (
                (32).to_bytes(8, "little") + b'{"a":{"data_offsets":[0,1e999]}}',
                "cannot be read as a safetensors file",
            ),
        ],
    )
    def test_what_is_none_is_told(self, tmp_path: Path, content: bytes, reason: str) -> None:
        path = tmp_path / "x.safetensors"
        path.write_bytes(content)
        with pytest.raises(UnreadableHeader, match=reason):
            read_header(path)

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        os.mkfifo(path)
        with pytest.raises(UnreadableHeader, match="is no file"):
            read_header(path)

    def test_a_cut_one_is_told(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.safetensors", {"a": (4, 4)})
        assert read_header(path).shapes == {"a": (4, 4)}
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(UnreadableHeader, match="is cut: 63 bytes of tensors are there of 64"):
            read_header(path)

    def test_a_shape_that_its_bytes_do_not_hold_is_told(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.safetensors", {"a": (4, 4)})
        path.write_bytes(path.read_bytes().replace(b"[4, 4]", b"[4, 5]"))
        with pytest.raises(UnreadableHeader, match="is damaged"):
            read_header(path)


class TestFolder:
    def test_names_are_those_of_the_files(self, folder: Path) -> None:
        write(folder / "x.safetensors", {"a": (1,)})
        write(folder / "styles" / "y.1.safetensors", {"a": (1,)})
        (folder / "z.txt").write_text("")
        assert sorted(Loras(folder).names()) == ["x", "y.1"]
        assert Loras(folder / "nowhere").names() == {}
        assert Loras().names() == {}

    def test_what_fits_is_listed_and_checked(self, folder: Path, model: ModelSpec) -> None:
        found = Loras(folder)
        assert found.of(model) == []
        write(folder / "x.safetensors", pair("diffusion_model.blocks.0.self_attn.q"))
        write(folder / "wide.safetensors", pair("diffusion_model.blocks.0.self_attn.q", wide=32))
        assert found.of(model) == ["x"]
        found.check([Lora("x"), Lora("x.safetensors")], model)
        with pytest.raises(InvalidParameter) as caught:
            found.check([Lora("x"), Lora("wide")], model)
        error = caught.value
        assert error.parameter == "loras[1].name"
        assert (
            "it changes `diffusion_model.blocks.0.self_attn.q` as 32x32, and the model has 24x24"
            in error.message
        )
        assert error.hint == "of those that are here, x fit model `small`"

    def test_a_changed_file_is_looked_at_anew(self, folder: Path, model: ModelSpec) -> None:
        found = Loras(folder)
        path = write(folder / "x.safetensors", pair("diffusion_model.blocks.0.self_attn.q"))
        found.check([Lora("x")], model)
        path.unlink()
        write(path, pair("diffusion_model.blocks.0.self_attn.q", wide=32))
        with pytest.raises(InvalidParameter, match="another architecture"):
            found.check([Lora("x")], model)
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(InvalidParameter, match="is cut"):
            found.check([Lora("x")], model)

    @pytest.mark.parametrize(
        "name", ["../secret", "/etc/passwd", "https://x.example/y.safetensors", "styles/x", "", "X"]
    )
    def test_no_name_is_a_path_or_a_url(self, folder: Path, model: ModelSpec, name: str) -> None:
        write(folder.parent / "secret.safetensors", pair("blocks.0.attn1.to_q"))
        write(folder / "styles" / "x.safetensors", pair("blocks.0.attn1.to_q"))
        with pytest.raises(
            InvalidParameter, match="the server's operator has put no such adapter on it"
        ) as caught:
            Loras(folder).check([Lora(name)], model)
        assert str(folder) not in f"{caught.value.message} {caught.value.hint}"

    def test_a_near_name_is_told(self, folder: Path, model: ModelSpec) -> None:
        write(folder / "watercolour.safetensors", pair("blocks.0.attn1.to_q"))
        with pytest.raises(InvalidParameter) as caught:
            Loras(folder).check([Lora("watercolor")], model)
        assert caught.value.hint == "did you mean `watercolour`?"

    @pytest.mark.parametrize("name", ["old", "old.ckpt"])
    def test_a_pickle_is_told(self, folder: Path, model: ModelSpec, name: str) -> None:
        (folder / "old.ckpt").write_bytes(b"\x80\x02}q\x00.")
        with pytest.raises(InvalidParameter, match="its file is a pickle, which can run code"):
            Loras(folder).check([Lora(name)], model)

    def test_a_file_of_whole_numbers_is_no_adapter(self, folder: Path, model: ModelSpec) -> None:
        write(folder / "x.safetensors", pair("blocks.0.attn1.to_q"), dtype="I64")
        with pytest.raises(InvalidParameter, match="it holds numbers of type I64"):
            Loras(folder).check([Lora("x")], model)

    def test_without_the_model_only_the_file_is_checked(self, folder: Path, model: ModelSpec) -> None:
        away = replace(model, source="folder:/nowhere")
        write(folder / "x.safetensors", pair("of.another.model"))
        found = Loras(folder)
        found.check([Lora("x")], away)
        assert found.of(away) == []
        (folder / "x.safetensors").write_bytes(b"nothing")
        with pytest.raises(InvalidParameter, match="is cut"):
            found.check([Lora("x")], away)

    def test_files_are_found_for_the_engine_the_cards_first(self, folder: Path, model: ModelSpec) -> None:
        write(folder / "x.safetensors", pair("blocks.0.attn1.to_q"))
        write(folder / "styles" / "y.safetensors", pair("blocks.0.attn1.to_q"))
        spec = replace(model, loras=(CardLora("file:styles/y.safetensors", 0.5, "transformer"),))
        files = Loras(folder).files([Lora("x", 2.0)], spec)
        assert [(file.name, file.scale, file.component, file.is_of_card) for file in files] == [
            ("y", 0.5, "transformer", True),
            ("x", 2.0, None, False),
        ]
        missing = replace(model, loras=(CardLora("file:nowhere.safetensors"),))
        with pytest.raises(ModelUnavailable, match="the adapter `nowhere` of model `small` is not there"):
            Loras(folder).files([], missing)
        away = replace(model, loras=(CardLora("hub:a/b/c.safetensors"),))
        with pytest.raises(ModelUnavailable, match="is not downloaded") as caught:
            Loras(folder).files([], away)
        assert caught.value.hint == "`vitascope models pull small` downloads it"


CARD = {"id": "x", "source": "folder:.", "pipeline": "WanPipeline"}


class TestCards:
    def test_a_card_names_adapters(self) -> None:
        rows = [
            {"source": "file:a.safetensors"},
            {
                "source": "hub:o/n/sub/b.safetensors",
                "scale": 0.5,
                "component": "transformer_2",
                "revision": "c",
            },
        ]
        spec = spec_from({**CARD, "loras": rows})
        assert spec.loras == (
            CardLora("file:a.safetensors"),
            CardLora("hub:o/n/sub/b.safetensors", 0.5, "transformer_2", "c"),
        )
        assert [lora.name for lora in spec.loras] == ["a", "b"]

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ({}, "the source None"),
            ({"source": "file:a.ckpt"}, "must be file:PATH.safetensors or hub:OWNER/NAME/FILE.safetensors"),
            ({"source": "https://x/a.safetensors"}, "must be file:PATH"),
            ({"source": "hub:o/n"}, "must be file:PATH"),
            ({"source": "file:a.safetensors", "strength": 1}, "the unknown key `strength`"),
            ({"source": "file:a.safetensors", "scale": 9}, "must be from -4 to 4"),
            ({"source": "file:a.safetensors", "component": "vae"}, "must be one of transformer"),
        ],
    )
    def test_what_is_wrong_is_told(self, row: dict[str, Any], reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            spec_from({**CARD, "loras": [row]})

    @pytest.mark.parametrize(
        "rows", ["file:a.safetensors", ["file:a.safetensors"], {"source": "file:a.safetensors"}]
    )
    def test_they_are_a_list_of_tables(self, rows: Any) -> None:
        with pytest.raises(TypeError, match="`loras` must be a list of tables"):
            spec_from({**CARD, "loras": rows})
