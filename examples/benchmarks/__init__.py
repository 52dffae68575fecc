# SPDX-License-Identifier: Apache-2.0
"""A package, lest the examples import another `benchmarks`: pyarrow 17 brings one."""
