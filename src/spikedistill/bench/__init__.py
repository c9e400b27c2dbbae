"""Time and memory of a training step against T, ours and the peers'; samples a second of the loader."""

from spikedistill.bench.data import bench_data
from spikedistill.bench.drawing import draw
from spikedistill.bench.layers import profile
from spikedistill.bench.point import Point
from spikedistill.bench.results import Result, Row, ratio
from spikedistill.bench.runner import run_benchmark
from spikedistill.bench.step import Step
from spikedistill.bench.subjects import SUBJECTS

__all__ = ["SUBJECTS", "Point", "Result", "Row", "Step", "bench_data", "draw", "profile", "ratio", "run_benchmark"]
