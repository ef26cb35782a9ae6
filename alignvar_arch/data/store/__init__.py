"""The format of image LMDBs that this project writes and reads.

    codecs.py   an image as bytes and back, also a window of it
    keys.py     the key of a source file
    index.py    the files beside the records
    reader.py   Store: reading
    writer.py   a store being written: resumable, renamed when whole
    maker.py    images -> GT and LR stores
    verify.py   what is wrong with a store, and its repair
    presets.py  published data sets as sources
    tokens.py   token maps in a store: TokenCache; token_maker.py writes it
"""

from alignvar_arch.data.store.codecs import CODECS
from alignvar_arch.data.store.reader import Store

__all__ = ["CODECS", "Store"]
