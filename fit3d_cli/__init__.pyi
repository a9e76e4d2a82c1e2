from fit3d_cli.api import LiftedScene as LiftedScene
from fit3d_cli.api import PointAnswers as PointAnswers
from fit3d_cli.api import RayAnswers as RayAnswers
from fit3d_cli.api import dense_features as dense_features
from fit3d_cli.api import load_backbone as load_backbone
from fit3d_cli.api import open_scene as open_scene

__version__: str
