"""Trains and measures everything of picturebook's world in full detail; see `reinvert.picturebook.train_all`.

python benchmarks/train_picturebook.py --out out/picturebook              about ten minutes on one large GPU
python benchmarks/train_picturebook.py --out out/rehearsal --rehearse     every part in miniature
"""

from __future__ import annotations

from reinvert.picturebook.train_all import main

if __name__ == "__main__":
    main()
