"""The card as Markdown with front matter, from its JSON and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...calibration.page import Section, counted, markdown
from ..benching.page import MEMORY, QUALITY, TABLE, escaped, quality_rows, speed_rows
from ..markup import code, prose

UNKNOWN = "unknown"


def card_page(card: Mapping[str, Any], pictures: Sequence[str] = ()) -> str:
    """`pictures`: file names beside the page, shown at the end of it."""
    sections = [
        Section("The file", head=("", ""), rows=tuple(_file(card))),
        Section("Use", tuple(_use(card))),
        Section("Limits", tuple(map(prose, card["limits"]))),
        Section("How it was made", head=("", ""), rows=tuple(_made(card))),
        _layers(card),
        _weights(card),
        _fidelity(card),
        _calibration(card),
        *_benchmark(card),
        _predicted(card),
    ]
    body = markdown(prose(card["file"]["name"]), [section for section in sections if section.lines or section.rows])
    shown = "".join(f"\n![{name.rpartition('.')[0]}]({name})\n" for name in pictures)
    return (
        f"{_front_matter(card)}\n{body}{shown}\n"
        f"Made by nvfp4-studio {card['nvfp4_studio']}; every figure is in card.json beside this page.\n"
    )


def _front_matter(card: Mapping[str, Any]) -> str:
    license_ = card["license"]
    known = (
        {"license": license_["identifier"]}
        if license_["identifier"]
        else {"license": "other", "license_name": license_["text"]}
    )
    entries = {"license": UNKNOWN} if license_["text"] == UNKNOWN else known
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in entries.items()]
    lines += ["tags:", *(f"- {json.dumps(tag)}" for tag in card["tags"])]
    return "\n".join(["---", *lines, "---", ""])


def _file(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    file, source = card["file"], card["source"]
    checked = ", computed for this page" if source["checked"] else ", as the file's header says"
    rows = [
        ("model", f"{file['family_title']} (`{file['family']}`)"),
        ("size", f"{file['size']}" + (f", source {source['size']}" if source["size"] else "")),
        ("SHA-256", f"`{file['sha256']}`"),
        ("source", code(source["name"]) if source["name"] else UNKNOWN),
    ]
    rows += [
        (f"SHA-256 of the source{checked}", f"{code(digest)} {prose(name)}")
        for name, digest in (source["sha256"] or {}).items()
    ]
    rows.append(("licence of the source", prose(f"{card['license']['text']} ({card['license']['from']})")))
    return rows


def _use(card: Mapping[str, Any]) -> list[str]:
    loading = card["loading"]
    return [
        f"Put {code(card['file']['name'])} into `{loading['folder']}` of {loading['runs_in']} and choose it in the node "
        f"*{loading['loader']}*. No custom node is needed.",
        loading["also"],
    ]


def _made(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    made = card["file"]["made"]
    if made is None:
        return [("how", "unknown: the file says nothing about it")]
    methods = ", ".join(
        f"{prose(name)} in {counted(count, 'layer')}" for name, count in made["rounding_planned"].items()
    )
    return [
        ("converter", f"nvfp4-studio {prose(made['version'])}"),
        (
            "recipe",
            code(made["recipe"]) + (f", {made['pinned_layers']} layers pinned" if made["pinned_layers"] else ""),
        ),
        ("rounding", code(made["rounding"]) + (f", planned: {methods}" if methods else "")),
        ("input_scale", code(made["input_scale"]) if made["calibration"] else "none: inputs are scaled dynamically"),
        ("calibration", code(made["calibration"]) if made["calibration"] else "none"),
    ]


def _layers(card: Mapping[str, Any]) -> Section:
    layers = card["layers"]
    lines = (
        f"{layers['nvfp4']} of {layers['total']} Linear layers of the diffusion model are NVFP4; {layers['quantized']} are "
        f"stored quantized, {layers['with_input_scale']} have a calibrated input_scale.",
    )
    rows = [
        (entry["format"], f"{entry['layers']}", f"{entry['percent_of_weights']:g} %") for entry in layers["formats"]
    ]
    return Section("Layers", lines, ("format", "layers", "share of the weights"), escaped(rows))


def _weights(card: Mapping[str, Any]) -> Section:
    found = card["weights"]
    if found is None:
        return Section("Weight errors")
    lines = [f"From {found['from']}; {found['changed_layers']} layers changed, {found['unchanged_layers']} identical."]
    if found["mean_sqnr_db"] is not None:
        lines.append(
            f"{found['main_format']} layers: mean SQNR {found['mean_sqnr_db']:.2f} dB; worst of all "
            f"{found['worst_sqnr_db']:.2f} dB in {found['worst_layer']}."
        )
    rows = [
        (
            group["group"],
            group["format"],
            f"{group['layers']}",
            _db(group["mean_sqnr_db"]),
            _db(group["worst_sqnr_db"]),
            f"{group['mean_rel_rmse_percent']:.2f} %",
        )
        for group in found["groups"]
    ]
    head = ("kind", "format", "layers", "mean SQNR", "worst SQNR", "mean rel. RMSE")
    return Section("Weight errors", tuple(map(prose, lines)), head, escaped(rows))


def _fidelity(card: Mapping[str, Any]) -> Section:
    found = (card["weights"] or {}).get("fidelity")
    if found is None:
        return Section("Fidelity")
    what = "outputs, computed as ComfyUI does" if found["of"] == "outputs" else "weights"
    lines = (
        f"Grade {found['grade']} ({found['grades']}), of the {what}: mean relative RMSE "
        f"{found['mean']['rel_rmse_percent']:.2f} %, cosine {found['mean']['cosine']:.4f} over {found['measured_layers']} "
        f"of {found['quantized_layers']} quantized layers.",
    )
    rows = [
        (
            group["kind"],
            f"{group['layers']}",
            f"{group['rel_rmse_percent']:.2f} %",
            f"{group['cosine']:.5f}",
        )
        for group in found["groups"]
    ]
    head = ("kind", "layers", "rel. RMSE", "cosine")
    return Section(f"Fidelity of {prose(found['of'])}", tuple(map(prose, lines)), head, escaped(rows))


def _calibration(card: Mapping[str, Any]) -> Section:
    found = card["calibration"]
    if found is None:
        return Section("Calibration")
    unseen = f", unseen noise levels: {found['schedule_unseen']}" if found["schedule_unseen"] else ""
    lines = (
        f"{counted(found['images'], 'image')}, {counted(found['samplings'], 'sampling')}, {counted(found['steps'], 'step')}.",
        f"{found['layers_seen']} of {found['layers']} Linear layers seen; {found['schedule_seen_percent']:g} % of the noise "
        f"schedule{unseen}.",
    )
    return Section("Calibration", tuple(map(prose, lines)))


def _benchmark(card: Mapping[str, Any]) -> list[Section]:
    found = card["benchmark"]
    if found is None:
        return []
    server, request = found["server"], found["request"]
    lines = (
        f"{request['pictures']} prompts, ComfyUI {server['comfyui']}, PyTorch {server['pytorch']}, "
        f"{server['hardware']['device']}. Time per image is the mean after warm-up, spread its standard deviation; "
        f"brackets: {found['confidence_percent']} % confidence intervals.",
        MEMORY,
    )
    sections = [Section("Speed", tuple(map(prose, lines)), TABLE, escaped(speed_rows(found)))]
    compared = quality_rows(found)
    if compared:
        against = (f"Against the pictures of {prose(request['reference'])} with the same prompts and seeds.",)
        sections.append(Section("Pictures", against, QUALITY, escaped(compared)))
    return sections


def _predicted(card: Mapping[str, Any]) -> Section:
    found = card["predicted"]
    if found is None or not found["tables"]:
        return Section("Predicted speed")
    rows = [
        (
            f"{prose(table['gpu'])}, predicted",
            f"{table['times']:.2f} x",
            f"{code(table['table'])} ({'measured kernels' if table['measured'] else 'specification'}, {prose(table['date'])})",
        )
        for table in found["tables"]
    ]
    return Section("Predicted speed over FP8", (found["assumed"],), ("GPU", "speed", "kernel table"), tuple(rows))


def _db(value: float | None) -> str:
    return "identical" if value is None else f"{value:.2f} dB"
