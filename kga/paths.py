"""Where the config tree lies: inside the installed package, or beside it in a checkout."""

from pathlib import Path


def config_dir() -> Path:
    """Folder of the config tree (``conf/`` of a checkout; packed into the wheel as ``kga/conf``)."""
    package = Path(__file__).resolve().parent
    packed = package / "conf"
    return packed if packed.is_dir() else package.parent / "conf"
