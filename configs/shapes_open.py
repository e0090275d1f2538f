"""CLIP-RC trained on shapes (inductive), evaluated on 20 classes that neither it nor its CLIP has seen an image of.

    python tools/run_net.py --config-file configs/shapes_open.py --task val \
        --weights work_dirs/shapes_inductive/weights.safetensors

Scenes of the same style with the same colours, patterns and shapes, in 20 other combinations: it measures what a model
makes of words that it knows in combinations that it does not. All 20 classes count as seen, so mIoU(S) is the mean over
all of them, mIoU(U) and hIoU are undefined, and gamma has no effect. Nothing is ever chosen by these numbers.

Hardware: one core of a busy AMD EPYC (Zen 3). Time: half a minute.
"""

base = "shapes_inductive.py"
cross_dataset = True
data = dict(dataset="shapes_open")
expected = {}
