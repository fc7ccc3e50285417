"""An encoder and labelled texts go in; out comes a folder that loads, predicts and explains."""

import random

import numpy as np
import torch
from transformers import pipeline

import tiny
from magic_pyramid import Classifier, Example, TrainConfig, fit, load_data
from magic_pyramid.checkpoint import to_huggingface
from magic_pyramid.tokenization import TextEncoder

GOOD, BAD, FILLER = (
    ["lovely", "good", "quiet"],
    ["bad", "dull", "loud"],
    ["film", "plot", "actor", "scene", "the"],
)
FAST = TrainConfig(
    epochs={"finetune": 8, "soft_prune": 1, "hard_prune": 1, "distill_exits": 1},
    min_steps=0,
    learning_rate=3e-3,
    learning_rate_exits=1e-2,
    max_sequences_per_batch=8,
    max_drop=5.0,
    dropout=0.0,
)


def reviews(count, *, seed):
    generator = random.Random(seed)
    for row in range(count):
        words = generator.choices(FILLER, k=generator.randint(2, 12))
        words.insert(generator.randrange(len(words) + 1), generator.choice((BAD, GOOD)[row % 2]))
        yield " ".join(words), ("negative", "positive")[row % 2]


def write_data(folder):
    folder.mkdir()
    for name, count, seed in (("train", 128, 0), ("validation", 40, 1), ("test", 40, 2)):
        rows = [f"{label}\t{text}" for text, label in reviews(count, seed=seed)]
        (folder / f"{name}.tsv").write_text("\n".join(["label\ttext", *rows]), encoding="utf-8")
    return folder


def test_train_save_load_predict(tmp_path):
    encoder, output = tmp_path / "encoder", tmp_path / "reviews"
    small = tiny.PLAIN.replace(backbone=tiny.BACKBONE.replace(num_hidden_layers=2))
    to_huggingface(tiny.build(small, spread=0.02), encoder, encoder=TextEncoder(tiny.tokenizer()))
    data = load_data(write_data(tmp_path / "data"))
    rng = torch.get_rng_state()

    report = fit(model=str(encoder), data=data, output=output, config=FAST, device="cpu")

    torch.set_rng_state(rng)
    assert report["validation"]["accuracy"] > 0.9
    assert report["calibration"]["quality"] >= report["calibration"]["dense_quality"] - 0.05
    assert [stage["name"] for stage in report["training"]["stages"]] == list(FAST.epochs)

    classifier = Classifier.from_pretrained(output)
    test = data.splits["test"]
    found = classifier.predict([example.text for example in test])
    right = [classifier.config.labels[example.label] for example in test]
    assert np.mean(np.array(found.labels) == np.array(right)) > 0.9
    row = classifier.evaluate(test, repeats=0)
    assert row["num_examples"] == 40
    assert row["accuracy"] == np.mean(np.array(found.labels) == np.array(right))

    trace = classifier.explain(test[0].text)
    assert trace.exit_layer == found.exit_layer[0]
    assert classifier.predict(["a lovely film", "the plot is dull"]).labels == ["positive", "negative"]

    answer = pipeline("text-classification", model=str(output), device="cpu")("a lovely film")
    assert answer[0]["label"] == "positive"
    assert "positive" in (output / "README.md").read_text(encoding="utf-8")

    classifier.save_pretrained(tmp_path / "copy")
    again = Classifier.from_pretrained(tmp_path / "copy").predict([Example(text="a lovely film").text])
    assert again.labels == ["positive"]
