# SPDX-License-Identifier: Apache-2.0
"""What RDKit is asked: the only files that import it, beside the prediction pipeline."""
