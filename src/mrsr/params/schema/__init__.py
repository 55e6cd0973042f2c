"""Every setting, once: name, type, default, bounds, unit and the section of the paper.

params.yaml must give the fields without a default. The text below a field says what it does.
`loading.py` reads params.yaml into these classes; the settings of each job (`jobs.py`) inherit from
them.
"""

from mrsr.params.schema.data import (
    SPLITS,
    Cutting,
    Data,
    Dataset,
    Degradation,
    Normalise,
    Section,
    Split,
    SplitByCounts,
    SplitByCSV,
    SplitByHash,
    SplitBySource,
    SplitBySubjects,
)
from mrsr.params.schema.networks import (
    Autoencoder,
    AutoencoderDiscriminator,
    AutoencoderNetwork,
    AutoencoderWeights,
    Pretext,
    Segmentation,
    Vit,
    VitNetwork,
    VitTraining,
)
from mrsr.params.schema.results import (
    ANATOMY,
    PRESETS,
    Block,
    Bootstrap,
    Experiment,
    Figures,
    Kind,
    Method,
    Metrics,
    More,
    Params,
    Preset,
    Recipe,
    Scale,
    Table,
    Tracking,
    Type,
    VitData,
)
from mrsr.params.schema.trainings import (
    Adversarial,
    Features,
    Loop,
    Optimizer,
    Schedule,
    SuperResolution,
    Training,
)
