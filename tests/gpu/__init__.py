"""What only a GPU machine can show: `python -m tests.gpu ENGINE …` (`make gpu-check`).

For each engine folder it builds the TensorRT plans and passes them through the accuracy gate, runs
the checks of checks.py, takes the timings of timing.py and, where torch and the official `sam2`
package are installed, those of official.py on the same GPU. The report is JSON and a table. It
needs no pytest, so that it also runs under the bare Python of a kit.
"""
