"""Our own engines, dense and adaptive; adaptive is the setting stored in the model."""

from functools import partial
from typing import Literal

from magic_pyramid.bench.contender import OURS, Answer, Answers, Contender, Material, Reason, always
from magic_pyramid.bench.texts import BenchTexts
from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.interface import DENSE, Engine, default_setting
from magic_pyramid.engine.native_engine import NativeEngine
from magic_pyramid.engine.ort_engine import OrtEngine
from magic_pyramid.native.library import REBUILD, is_built


def _answer(engine: Engine, config: ModelConfig, *, adaptive: bool) -> Answer:
    setting = default_setting(config) if adaptive else DENSE

    def answer(texts: BenchTexts, batch_size: int) -> Answers:
        output = engine.run(texts.encoded, setting=setting, batch_size=batch_size)
        return Answers(output.logits, output.exit_layer, output.num_tokens)

    return answer


def _load_torch(material: Material, _: int, *, adaptive: bool) -> Answer:
    from magic_pyramid.checkpoint import load_model
    from magic_pyramid.engine.torch_engine import TorchEngine

    model = load_model(material.model).model
    return _answer(TorchEngine(model), model.config, adaptive=adaptive)


def _export(material: Material, *, precision: str) -> None:
    from magic_pyramid.checkpoint import load_model
    from magic_pyramid.export import export_onnx

    folder = material.folder / f"{OURS}_{precision}"
    if not folder.exists():
        export_onnx(load_model(material.model).model, folder, encoder=None, precision=precision)


def _load_onnx(material: Material, threads: int, *, adaptive: bool, precision: str) -> Answer:
    engine = OrtEngine(material.folder / f"{OURS}_{precision}", threads=threads)
    return _answer(engine, engine.config, adaptive=adaptive)


def _export_native(material: Material, *, precision: str) -> None:
    from magic_pyramid.checkpoint import load_model
    from magic_pyramid.export import export_native

    folder = material.folder / f"{OURS}_native_{precision}"
    if not folder.exists():
        export_native(load_model(material.model).model, folder, encoder=None, precision=precision)


def _load_native(material: Material, threads: int, *, adaptive: bool, precision: str) -> Answer:
    engine = NativeEngine.from_folder(material.folder / f"{OURS}_native_{precision}", threads=threads)
    return _answer(engine, engine.config, adaptive=adaptive)


def _must_adapt(config: ModelConfig, _: BenchTexts) -> Reason:
    return None if config.prune or config.exit else "the model has neither pruning nor exits"


_PRECISIONS: tuple[Literal["fp32", "int8"], ...] = ("fp32", "int8")


def _native_unsuited(config: ModelConfig, texts: BenchTexts, *, adaptive: bool) -> Reason:
    if not is_built():
        return f"the native engine is not built: {REBUILD}"
    return _must_adapt(config, texts) if adaptive else None


def _rows(*, adaptive: bool) -> tuple[Contender, ...]:
    unsuited = _must_adapt if adaptive else always
    return (
        Contender(
            engine=f"{OURS}_torch",
            adaptive=adaptive,
            load=partial(_load_torch, adaptive=adaptive),
            libraries=("torch",),
            needs_torch=True,
            pads=False,
            note="packed batches in PyTorch",
            unsuited=unsuited,
        ),
        *(
            Contender(
                engine=f"{OURS}_onnx",
                precision=precision,
                adaptive=adaptive,
                prepare=partial(_export, precision=precision),
                load=partial(_load_onnx, adaptive=adaptive, precision=precision),
                libraries=("onnx", "onnxruntime"),
                pads=False,
                note="packed ONNX segments, as `magic-pyramid export` writes them",
                unsuited=unsuited,
            )
            for precision in _PRECISIONS
        ),
        *(
            Contender(
                engine=f"{OURS}_native",
                precision=precision,
                adaptive=adaptive,
                prepare=partial(_export_native, precision=precision),
                load=partial(_load_native, adaptive=adaptive, precision=precision),
                pads=False,
                note="packed rows in C++, as `magic-pyramid export --to native` writes them",
                unsuited=partial(_native_unsuited, adaptive=adaptive),
            )
            for precision in _PRECISIONS
        ),
    )


CONTENDERS = (*_rows(adaptive=False), *_rows(adaptive=True))
