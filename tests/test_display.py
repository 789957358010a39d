"""What a notebook shows of folders."""

import html
import json
import re
from base64 import b64decode

import pytest

import cardiff
from cardiff.hub.serialization import save_pipeline
from cardiff.layout import shipped_model
from tests.support.tiny_models import tiny_pipeline


def cells(text):
    return [html.unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall("<td>(.*?)</td>", text)]


def pictures(text):
    return [b64decode(data) for data in re.findall('src="data:image/png;base64,([^"]*)"', text)]


def test_a_model_is_how_it_was_trained_and_what_it_draws():
    folder = shipped_model("cars_32")
    shown = cardiff.show(folder)
    text = shown._repr_html_()
    facts = dict(zip(cells(text)[::2], cells(text)[1::2], strict=True))
    assert (facts["kind"], facts["step"], facts["images seen"]) == ("conditional", "12,500", "200,000")
    assert (facts["training images"], facts["schedule"]) == ("2,000", "sigmoid")
    assert pictures(text) == [(folder / "samples.png").read_bytes()]
    assert repr(shown) == f"show({str(folder)!r})"


def test_of_a_run_the_newest_grid_is_shown(tmp_path):
    source = shipped_model("cars_32")
    (tmp_path / "samples").mkdir()
    (tmp_path / "run.json").write_bytes((source / "run.json").read_bytes())
    for step, content in (("00000020", b"new"), ("00000003", b"old")):
        (tmp_path / f"samples/step-{step}.png").write_bytes(content)
    assert pictures(cardiff.show(str(tmp_path))._repr_html_()) == [b"new"]


def test_samples_are_pictures_and_their_manifest(tmp_path):
    names = {0: "ant", 1: "<b>bee</b>", 2: "cat, black"}
    save_pipeline(tiny_pipeline(id2label=names), tmp_path / "model")
    options = cardiff.SampleOptions(
        str(tmp_path / "model"), output=str(tmp_path / "out"), num_images=26, steps=1, guidance_scale=2
    )
    folder = cardiff.sample(options)
    text = cardiff.show(folder)._repr_html_()
    assert pictures(text) == [(folder / f"{i:06d}.png").read_bytes() for i in range(24)]
    assert "<b>bee" not in text and "<td>&lt;b&gt;bee&lt;/b&gt;</td>" in text
    entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    heads = re.findall("<th>(.*?)</th>", text)
    assert heads[:4] == ["", "index", "seed", "label"] and "file" not in heads
    of_third = cells(text)[2 * len(heads) : 3 * len(heads)]
    assert of_third[1:5] == ["2", str(entries[2]["seed"]), "2", "cat, black"]
    assert dict(zip(heads, of_third))["evaluations"] == "unet: 2"
    assert "The first 24 of 26 images." in text


def test_a_report_runs_no_script_of_its_own(tmp_path):
    page = '<p title="&quot;">a report</p><script>alert("here")</script>'
    (tmp_path / "report.html").write_text(page)
    text = cardiff.show(tmp_path)._repr_html_()
    (content,) = re.findall('^<iframe sandbox srcdoc="([^"]*)"', text)
    assert html.unescape(content) == page


def test_an_evaluation_is_a_table_of_its_figures(tmp_path):
    (tmp_path / "report.html").write_text("whole")
    found = {"fid": {"value": 12.34567, "low": 11, "high": 13.5}, "recall": {"value": 0.5, "low": 0.25, "high": 0.75}}
    (tmp_path / "metrics.json").write_text(json.dumps({"metrics": found}))
    text = cardiff.show(tmp_path)._repr_html_()
    assert cells(text) == ["fid", "12.35", "11 to 13.5", "recall", "0.5", "0.25 to 0.75"]
    assert f"With pictures: {tmp_path / 'report.html'}" in text
    (tmp_path / "metrics.json").write_text(json.dumps({"metrics": {"fid": 3}}))
    with pytest.raises(cardiff.UserError, match="metrics.json is not one of evaluate.py"):
        cardiff.show(tmp_path)


@pytest.mark.parametrize("name", ["", "../secret.png", "missing.png"])
def test_other_folders_are_refused(name, tmp_path):
    if not name:
        sentence = "has neither run.json of a run, nor manifest.jsonl of samples, nor a report.html"
    else:
        (tmp_path.parent / "secret.png").write_bytes(b"secret")
        (tmp_path / "manifest.jsonl").write_text(json.dumps({"file": name}) + "\n")
        sentence = f"manifest.jsonl lists '{name}', which is not in its folder"
    with pytest.raises(cardiff.UserError, match=re.escape(sentence)):
        cardiff.show(tmp_path)
