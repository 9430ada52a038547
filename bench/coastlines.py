"""Write data/atmosphere/coastlines.npz from Natural Earth's land at 1:50 million.

    npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz
    python bench/coastlines.py package/land-50m.json

The TopoJSON holds every coast once, as arcs of differences on a grid. Points are rounded to 0.01
degrees; islands that shrink to fewer than three points are left out.
"""

import argparse
import json
from pathlib import Path

import numpy as np

OUT = Path(__file__).parents[1] / "data" / "atmosphere" / "coastlines.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topology", type=Path)
    topology = json.loads(parser.parse_args().topology.read_text())
    scale, translate = (np.array(topology["transform"][key]) for key in ("scale", "translate"))
    lines = []
    for arc in topology["arcs"]:
        points = np.round((np.cumsum(arc, axis=0) * scale + translate) * 100).astype(np.int16)
        keep = np.append(True, np.any(np.diff(points, axis=0), axis=1))
        if keep.sum() > 2:
            lines.append(points[keep])
    np.savez_compressed(
        OUT, points=np.concatenate(lines), lengths=np.array([len(line) for line in lines], np.int32)
    )
    print(f"{len(lines)} lines, {sum(map(len, lines))} points, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
