//! Finds out from a model's operators whether the rows of a batch may influence each other. If so, requests must not
//! be batched.
//!
//! The operators and their axes: <https://onnx.ai/onnx/operators/>.

use std::collections::HashMap;

/// Most nodes that are remembered. Models with more are not analyzed, and so not batched.
const MAX_NODES: usize = 1 << 18;

/// Longest list of axes or dimensions; longer integer tensors are something else.
pub(super) const MAX_NUMBERS: usize = 64;

const CONTROLLED: &str = "input values decide which operators run, or how many values there are";
const SCALED: &str = "an operator quantizes all rows with one scale (`DynamicQuantizeLinear`)";
const REDUCED: &str =
    "an operator works across rows: a reduction, a softmax or a sort over the first dimension";
const TRAINED: &str = "a normalization uses the mean of all rows";
const UNKNOWN: &str = "the model has too many operators to analyze";

/// How an operator treats rows; [`Self::Other`] if it maps each row by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Does {
    /// Control flow, or an output whose size depends on the input values.
    Controls,
    /// Scales the whole input with one factor computed from it.
    Scales,
    /// Works across the axes in an attribute or the second input. Without axes: across all, or across none if
    /// `noop_with_empty_axes` is set.
    Reduces,
    /// Works across one axis: the attribute's, or else this one.
    Across(i64),
    /// Normalizes across the axes in an attribute, or else across batch, height and width.
    Normalizes,
    /// Uses the mean of the batch if `training_mode` is set.
    Trains,
    /// Outputs only depend on the input's shape.
    Shapes,
    /// Changes the order of dimensions.
    Transposes,
    /// Inserts dimensions.
    Unsqueezes,
    /// Outputs a constant.
    Holds,
    /// Maps rows to rows.
    Other,
}

impl Does {
    pub(super) fn of(domain: &str, operator: &str) -> Self {
        match (domain, operator) {
            ("" | "ai.onnx", operator) => match operator {
                "Loop" | "If" | "Scan" | "SequenceMap" | "NonZero" | "Unique" | "Compress"
                | "NonMaxSuppression" => Self::Controls,
                "DynamicQuantizeLinear" => Self::Scales,
                "Softmax" | "LogSoftmax" | "Hardmax" | "LpNormalization" | "LayerNormalization"
                | "RMSNormalization" | "TopK" => Self::Across(-1),
                "ArgMax" | "ArgMin" => Self::Across(0),
                // Its axis is its second input, as for a reduction.
                "CumSum" => Self::Reduces,
                "MeanVarianceNormalization" => Self::Normalizes,
                "BatchNormalization" => Self::Trains,
                "Shape" | "Size" => Self::Shapes,
                "Transpose" => Self::Transposes,
                "Unsqueeze" => Self::Unsqueezes,
                "Constant" => Self::Holds,
                reduction if reduction.starts_with("Reduce") => Self::Reduces,
                _ => Self::Other,
            },
            ("com.microsoft", "DynamicQuantizeMatMul" | "DynamicQuantizeLSTM") => Self::Scales,
            _ => Self::Other,
        }
    }
}

/// The parts of a node that are kept. Names are hashes.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) does: Does,
    pub(super) inputs: Vec<u64>,
    pub(super) outputs: Vec<u64>,
    /// The axes, order of dimensions or values in the node's attributes.
    pub(super) numbers: Option<Vec<i64>>,
    /// Whether `training_mode` or `noop_with_empty_axes` is set.
    pub(super) flagged: bool,
}

/// The nodes of a graph or a function in topological order: each value is produced before it is used.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    list: Vec<Node>,
    too_many: bool,
    /// Short integer tensors by name: axes are often inputs.
    numbers: HashMap<u64, Vec<i64>>,
}

/// The position of the batch dimension in a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
enum Rows {
    /// None: the value does not depend on the requests, except on their shapes.
    #[default]
    Nowhere,
    /// The first dimension, as far as is known.
    First,
    /// Another dimension.
    Elsewhere,
}

impl Nodes {
    pub(super) fn push(&mut self, node: Node) {
        self.too_many |= self.list.len() == MAX_NODES;
        if !self.too_many {
            self.list.push(node);
        }
    }

    /// Remembers the values of an initializer or constant.
    pub(super) fn know(&mut self, name: u64, numbers: Vec<i64>) {
        if numbers.len() <= MAX_NUMBERS && self.numbers.len() < MAX_NODES {
            self.numbers.insert(name, numbers);
        }
    }

    /// Checks that no operator lets rows of `inputs` influence each other; the error is the reason. This is a first test:
    /// the scoring server also compares outputs of the model's sample.
    pub(super) fn rows_independent(
        &mut self,
        inputs: impl IntoIterator<Item = u64>,
    ) -> Result<(), &'static str> {
        if self.too_many {
            return Err(UNKNOWN);
        }
        let mut rows: HashMap<u64, Rows> = inputs.into_iter().map(|name| (name, Rows::First)).collect();
        for node in std::mem::take(&mut self.list) {
            let rows_of = |name: &u64| rows.get(name).copied().unwrap_or_default();
            let any = node.inputs.iter().map(rows_of).max().unwrap_or_default();
            let first = node.inputs.first().map(rows_of).unwrap_or_default();
            let named = node.numbers.as_deref();
            let axes = named.or_else(|| self.numbers.get(node.inputs.get(1)?).map(Vec::as_slice));
            let names_first = axes.is_some_and(|axes| axes.contains(&0));
            let names_none = axes.map_or(node.inputs.len() < 2, <[i64]>::is_empty);
            match node.does {
                Does::Controls => return Err(CONTROLLED),
                Does::Scales if any != Rows::Nowhere => return Err(SCALED),
                Does::Reduces if names_none && !node.flagged && first != Rows::Nowhere => {
                    return Err(REDUCED);
                }
                Does::Reduces if names_first && first == Rows::First => return Err(REDUCED),
                Does::Across(axis)
                    if first == Rows::First
                        && named.and_then(|axes| axes.first()).copied().unwrap_or(axis) == 0 =>
                {
                    return Err(REDUCED);
                }
                Does::Normalizes if first == Rows::First && named.is_none_or(|axes| axes.contains(&0)) => {
                    return Err(TRAINED);
                }
                Does::Trains if node.flagged && first != Rows::Nowhere => return Err(TRAINED),
                _ => {}
            }
            let out = match node.does {
                Does::Shapes => Rows::Nowhere,
                Does::Transposes
                    if any == Rows::First && named.and_then(|order| order.first()) != Some(&0) =>
                {
                    Rows::Elsewhere
                }
                Does::Unsqueezes if any == Rows::First && names_first => Rows::Elsewhere,
                _ => any,
            };
            rows.extend(node.outputs.iter().map(|&name| (name, out)));
            if let (Does::Holds, Some(numbers), Some(&name)) = (node.does, node.numbers, node.outputs.first())
            {
                self.know(name, numbers);
            }
        }
        Ok(())
    }
}
