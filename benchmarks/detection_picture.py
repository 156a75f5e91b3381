"""docs/detection.svg: who is told how long before the OOM kill, and how much time there is by speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.detection_report import DOCS, LISTENERS, Row, all_where, leads_by_speed, leads_of, name_of, native_leads

PICTURE: Final = DOCS / "detection.svg"


def draw(rows: Sequence[Row]) -> None:
    """Write the picture. matplotlib is for this command alone, so it is imported here."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "memnotify"
    from matplotlib import pyplot

    wheres = [where for where in all_where(rows) if leads_of(rows, where)]
    if not wheres:
        return
    figure, (axes, curve) = pyplot.subplots(
        2, 1, figsize=(11, 0.55 * len(wheres) + 6), height_ratios=(0.55 * len(wheres) + 1, 4)
    )
    height = 0.8 / len(LISTENERS)
    for number, (name, label) in enumerate(LISTENERS.items()):
        leads = [max(0.0, leads_of(rows, where).get(name) or 0.0) / 1000 for where in wheres]
        places = [index + number * height for index in range(len(wheres))]
        axes.barh(places, leads, height, label=label, color="black" if name == "device" else None)
    axes.set_yticks([index + 0.4 - height / 2 for index in range(len(wheres))], list(map(name_of, wheres)))
    axes.invert_yaxis()
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlabel("seconds from the first notice to the OOM kill (none: not told in time)")
    axes.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    for swap, label in (("none", "guest, no swap"), ("zram", "guest, zram")):
        points = [
            (speed, lead / 1000)
            for (where, speed), lead in leads_by_speed(rows).items()
            if where == swap and speed and lead
        ]
        if points:
            curve.plot(*zip(*sorted(points), strict=True), marker="o", label=label)
    native = sorted((speed, lead / 1000) for speed, lead in native_leads(rows) if lead is not None)
    if native:
        curve.plot(*zip(*native, strict=True), marker="s", label="without a guest, no swap: until nothing is left")
    curve.set_xscale("log")
    curve.set_yscale("log")
    curve.set_xlabel("MiB/s that are taken")
    curve.set_ylabel("seconds of lead of /dev/mem_notify")
    curve.grid(visible=True, which="major", alpha=0.3)
    curve.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})
    pyplot.close(figure)
