# SPDX-License-Identifier: Apache-2.0
"""`python -m cmim_hf.cli` is `cmim`."""

import sys

from .main import main

sys.exit(main())
