"""Set the speed knob of a trained model anew, on the validation split of its data.

Usage: python benchmarks/calibrate.py MODEL DATA OUTPUT [--max-drop POINTS]
"""

import argparse
import json
from pathlib import Path

from magic_pyramid import Classifier, load_data


def main() -> None:
    """Calibrate, save, and print what was found on validation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("output", type=Path)
    parser.add_argument("--max-drop", type=float, default=0.5, help="points that may be lost on validation")
    options = parser.parse_args()
    classifier = Classifier.from_pretrained(options.model)
    found = classifier.calibrate(load_data(options.data).splits["validation"], max_drop=options.max_drop)
    classifier.save_pretrained(options.output)
    print(json.dumps({**found.to_dict(), "output": options.output.name}, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
