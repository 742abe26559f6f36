"""Eight short lessons, in the order in which they build on each other: one file a lesson, an explicit list of them.

Each asks before it shows. What it asks is measured on the numbers that are on the screen.
"""

from rotviz.lessons.butterflies import BUTTERFLIES
from rotviz.lessons.clipping import CLIPPING
from rotviz.lessons.grid import GRID
from rotviz.lessons.lesson import Dial, Finding, Lesson, Material, material
from rotviz.lessons.massive import MASSIVE
from rotviz.lessons.outlier import OUTLIER
from rotviz.lessons.scales import SCALES
from rotviz.lessons.turning import TURNING
from rotviz.lessons.whip import WHIP

LESSONS: dict[str, Lesson] = {lesson.name: lesson for lesson in (GRID, CLIPPING, OUTLIER, SCALES, TURNING, BUTTERFLIES, MASSIVE, WHIP)}

__all__ = ["LESSONS", "Dial", "Finding", "Lesson", "Material", "material"]
