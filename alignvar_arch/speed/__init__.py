"""What a store brings on this machine: `basicsr lmdb bench`.

    material.py   one selection of records, as the store has it, as PNG folders and as other LMDBs
    loaders.py    images/s of training's loaders
    reading.py    images/s and MB/s of reading: first and second time, whole images, crops
    stages.py     CPU time of a loader's stages
    makers.py     this project's maker against BasicSR's
    training.py   images/s that a training step takes
    bench.py      all of it, as one dict
    report.py     the dict in words, plot.py as a plot

Compared things are measured in turn, several times, and their medians are compared: a machine's speed drifts.
"""
