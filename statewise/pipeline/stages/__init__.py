"""The stages that there are: one module each, which says what the stage is in one `STAGE`.

Which stages there are, and what each of them does, is asked for by the command line before it
knows what to do: a stage's module therefore imports what its work needs when the work is done.
"""

from statewise.pipeline.stage import Pipeline
from statewise.pipeline.stages import bench, compare, eval, report, synth, train

PIPELINE = Pipeline(module.STAGE for module in (synth, train, eval, compare, bench, report))
