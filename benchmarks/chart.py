"""Draws docs/figures/sampling.png: the time of sampling a MAF against its dimension.

From results/autoregressive.json: 256 draws from 5 layers; wider networks in higher dimensions.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import tables

FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "sampling.png"
BATCH, LAYERS = 256, 5
CURVES = {"ours": ("flows", "#1b4f72"), "FlowJAX": ("FlowJAX", "#d35400"), "zuko": ("zuko", "0.5")}


def main() -> None:
    """Draws it."""
    result = tables.load("autoregressive")
    rows = [r for r in result["rows"] if (r["batch"], r["layers"]) == (BATCH, LAYERS)]
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for key, (name, colour) in CURVES.items():
        found = {row["D"]: row["sample"][key] for row in rows if key in row["sample"]}
        if not found:
            continue
        middle, low, high = (
            [t[k] for t in found.values()] for k in ("median_ms", "low_ms", "high_ms")
        )
        axis.plot(list(found), middle, "o-", color=colour, markersize=4)
        axis.fill_between(list(found), low, high, color=colour, alpha=0.2, linewidth=0)
        end = list(found)[-1], middle[-1]
        axis.annotate(name, end, (7, 0), textcoords="offset points", va="center", color=colour)
    axis.set(xscale="log", yscale="log", ylabel=f"{BATCH} draws, ms")
    ticks = {row["D"]: f"{row['D']}\n({row['H']})" for row in rows}
    axis.set_xticks(list(ticks), list(ticks.values()), fontsize=8)
    axis.minorticks_off()
    axis.set_xlim(right=2.2 * rows[-1]["D"])
    axis.set_xlabel("dimension (and width of the networks)")
    axis.set_title(f"Sampling a MAF of {LAYERS} layers", loc="left", fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="0.9")
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=150)


if __name__ == "__main__":
    main()
