"""Environments. Importing this package loads the machine's OpenGL platform, where there is one.

EnvPool's renderer aborts the process unless that library was loaded before EnvPool was.
"""

import ctypes
import sys

# Whether EnvPool's renderer will find the platform.
EGL_COMES_FIRST = "envpool" not in sys.modules

try:
    ctypes.CDLL("libEGL.so.1", mode=ctypes.RTLD_GLOBAL)
    HAS_EGL = True
except OSError:
    HAS_EGL = False
