"""Draws docs/figures/density.png: log-likelihood on validation rows against seconds of training.

From results/density.json, one panel for each table of the fits of 60 s. The rows validated on are
the table's own, but for FlowJAX, which holds out a share of all rows. So BSDS300 is left out: there
the table's own are of other images than those trained on, and curves do not compare.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tables

FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "density.png"
COLOURS = {"flows": "#1b4f72", "FlowJAX": "#d35400", "zuko": "0.5"}
STYLES = {"maf": "-", "MAF": "-", "nsf": ":", "spline coupling": ":", "gaussianization": "-."}


def main() -> None:
    """Draws it."""
    rows = tables.load("density")["rows"]
    rows = [row for row in rows if row["seed"] == 0 and row["budget s"] == 60]
    rows = [row for row in rows if row["table"] != "BSDS300"]
    names = list(dict.fromkeys(row["table"] for row in rows))
    figure, axes = plt.subplots(
        1, len(names), figsize=(3.6 * len(names), 3.4), layout="constrained", squeeze=False
    )
    for axis, name in zip(axes[0], names, strict=True):
        here = [row for row in rows if row["table"] == name]
        for row in here:
            library, family = row["fit"].split(" ", 1)
            seconds = np.linspace(0, row["seconds"], len(row["validation"]) + 1)[1:]
            axis.plot(
                seconds, row["validation"], STYLES.get(family, "--"), color=COLOURS[library],
                label=row["fit"], linewidth=1.4,
            )  # fmt: skip
        best = max(max(row["validation"]) for row in here)
        ends = sorted(max(row["validation"]) for row in here)
        axis.set_ylim(ends[0] - 0.6 * (best - ends[0]), best + 0.1 * (best - ends[0]))
        axis.set_title(name, loc="left", fontsize=11)
        axis.set_xlabel("seconds on one core")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="0.9")
    axes[0, 0].set_ylabel("validation log-likelihood, nats")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8,
        frameon=False,
    )  # fmt: skip
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=130)


if __name__ == "__main__":
    main()
