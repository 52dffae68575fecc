# SPDX-License-Identifier: Apache-2.0
"""SMILES to vectors: arrays, files, sharded libraries, scikit-learn."""
