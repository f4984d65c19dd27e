"""What `pyproject.toml` cannot say: the wheel brings `conf/` and the page of flags inside the package.

In the repository both stay where they are; an editable installation reads them there.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


class BuildWithConfigs(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib) / "robustdet"
        shutil.rmtree(package / "conf", ignore_errors=True)  # what an earlier build left there
        shutil.copytree(HERE / "conf", package / "conf")
        (package / "docs").mkdir(exist_ok=True)
        shutil.copy(HERE / "docs" / "flags.md", package / "docs")


setup(cmdclass={"build_py": BuildWithConfigs})
