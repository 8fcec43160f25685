# make demo   the tracker at work, with an overlay video and a latency report
# make test   everything that continuous integration runs
# make gpu-check   TensorRT on this machine's NVIDIA GPU: builds, checks, timings (see tests/gpu)
# Each does all its own set-up, in .venv/ and .cache/; a second run installs nothing.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:

# The workshop (export/, PyTorch) and the robot (sam2_rt/, no torch) have one environment each.
# The robot's Python is that of the sourced ROS 2, else the one the ROS tests' runtime is for.
PYTHON ?= $(shell .ci/python 3.11 3.12 3.13 3.10 3)
ROBOT_PYTHON ?= $(or $(shell .ci/python $(if $(ROS_DISTRO),3,3.12)),$(PYTHON))
WORKSHOP := .venv/workshop
ROBOT := .venv/robot
# pip must not see a sourced ROS 2; every environment gets the versions the tests pass with.
PIP := env -u PYTHONPATH python -m pip install -qq --constraint .ci/constraints.txt
IN_ROBOT := source $(ROBOT)/bin/activate &&
IN_WORKSHOP := source $(WORKSHOP)/bin/activate &&
NEEDS := setup.py .ci/constraints.txt Makefile

.PHONY: demo test lint format test-robot test-ros coverage test-workshop gpu-check clean

demo: $(ROBOT)/.ready
	$(IN_ROBOT) python .ci/demo.py --out out/demo

test: lint test-robot test-ros coverage test-workshop

lint: $(WORKSHOP)/.ready
	$(IN_WORKSHOP) ruff check . && ruff format --check . && mypy

format: $(WORKSHOP)/.ready
	$(IN_WORKSHOP) ruff check --fix . && ruff format .

# Tests that need torch live in tests/export and tests/parity, which pytest leaves out unless named.
test-robot: $(ROBOT)/.ready
	rm -f .coverage .coverage.*
	$(IN_ROBOT) coverage run -m pytest tests --ignore tests/ros

test-ros: $(ROBOT)/.ready
	$(IN_ROBOT) coverage run tests/ros/environment.py test

# Where there is no ROS 2, its tests were skipped and its code is not counted.
coverage: $(ROBOT)/.ready
	$(IN_ROBOT) coverage combine --quiet && \
	  if python tests/ros/environment.py available; then coverage report; \
	  else coverage report --omit 'sam2_rt/ros/*'; fi

test-workshop: $(WORKSHOP)/.ready
	$(IN_WORKSHOP) python -m pytest tests/export tests/parity -n 2 --dist loadfile --durations 10

$(ROBOT)/.ready: $(NEEDS)
	@echo 'setting up $(ROBOT) with $(ROBOT_PYTHON)'
	$(ROBOT_PYTHON) -m venv $(ROBOT)
	$(IN_ROBOT) $(PIP) setuptools wheel
	$(IN_ROBOT) $(PIP) --no-build-isolation --editable '.[onnxruntime,openvino,test,ros-test]'
	$(IN_ROBOT) python tests/ros/environment.py prepare
	touch $@

$(WORKSHOP)/.ready: $(NEEDS)
	@echo 'setting up $(WORKSHOP) with $(PYTHON)'
	$(PYTHON) -m venv $(WORKSHOP)
	$(IN_WORKSHOP) $(PIP) setuptools wheel
	$(IN_WORKSHOP) $(PIP) --no-build-isolation --editable '.[openvino,tensorrt-rtx,export,test,parity,lint]'
	# The official code, byte for byte: the reference of tests/parity, and nothing else.
	$(IN_WORKSHOP) SAM2_BUILD_CUDA=0 $(PIP) --no-deps --no-build-isolation sam2==1.1.0
	touch $@

# On a machine with an NVIDIA GPU, whose own python3 has TensorRT, NumPy, OpenCV, onnx, onnxruntime.
ENGINES ?= engines/micro
gpu-check:
	python3 -m tests.gpu $(ENGINES)

clean:
	rm -rf .venv .cache out build install log .coverage .coverage.*
