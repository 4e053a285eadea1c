//! A word table that the device cannot bind: it stays in the processor's memory, in the precision of its file, and each
//! batch brings the rows of its tokens. They are the bytes that the table on the device would have, so scores are too.

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::layout::{Layout, Storage};
use super::origin::ModelToLoad;
use crate::weights::{Model, Table};

/// The table, and how its rows go to the device.
#[derive(Debug)]
pub(super) struct HostWords {
    table: Held,
    /// Numbers of a row.
    width: usize,
    storage: Storage,
}

#[derive(Debug)]
enum Held {
    /// In a model that is kept for reloading anyway.
    InModel(Arc<Model>),
    Alone(Table),
}

impl HostWords {
    /// Takes the word table of a model, or shares it.
    ///
    /// # Panics
    /// The table does not fit the architecture.
    pub(super) fn new(model: ModelToLoad, layout: &Layout) -> Self {
        let (width, numbers) = (layout.embeddings.width, model.architecture.vocab_size * layout.embeddings.width);
        let found = model.weights.embeddings.word.len();
        assert_eq!(found, numbers, "the word table is not as large as the architecture says");
        let table = match model {
            ModelToLoad::Kept(model) => Held::InModel(model),
            ModelToLoad::Read(model) => Held::Alone(model.weights.embeddings.word),
        };
        Self { table, width, storage: layout.storage }
    }

    /// Its size in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.table().bytes()
    }

    /// Calls `put` with each token's row as the device stores it.
    ///
    /// # Panics
    /// The table does not have a row.
    pub(super) fn gather(&self, ids: &[u32], mut put: impl FnMut(&[u8])) {
        let row = |id: u32| id as usize * self.width..(id as usize + 1) * self.width;
        match (self.table(), self.storage) {
            (Table::F32(numbers), Storage::F32) => {
                ids.iter().for_each(|&id| put(bytemuck::cast_slice(&numbers[row(id)])));
            }
            // Files have finite numbers only, and no half is beyond the largest.
            (Table::F16(numbers), Storage::F16) => {
                ids.iter().for_each(|&id| put(bytemuck::cast_slice(numbers[row(id)].reinterpret_cast())));
            }
            (table, Storage::F32) => {
                let mut wide = vec![0.0; self.width];
                for &id in ids {
                    table.copy_row(id as usize, &mut wide);
                    put(bytemuck::cast_slice(&wide));
                }
            }
            (table, Storage::F16) => {
                let (mut wide, mut narrow) = (vec![0.0; self.width], vec![f16::ZERO; self.width]);
                for &id in ids {
                    table.copy_row(id as usize, &mut wide);
                    Storage::clamp_to_halves(&mut wide);
                    narrow.convert_from_f32_slice(&wide);
                    put(bytemuck::cast_slice(narrow.reinterpret_cast()));
                }
            }
        }
    }

    fn table(&self) -> &Table {
        match &self.table {
            Held::InModel(model) => &model.weights.embeddings.word,
            Held::Alone(table) => table,
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::families;

    #[test]
    fn rows_have_the_bytes_of_a_table_on_the_device() {
        let (width, words) = (384, 30_522);
        let numbers: Vec<f32> = (0..width * words)
            .map(|index| match index % 5 {
                0 => 0.0,
                1 => -1.5e-6 * (index % 97) as f32,
                2 => 3e5,
                3 => -7e4,
                _ => index as f32 * 1e-4,
            })
            .collect();
        let narrow: Vec<f16> = numbers.iter().map(|&x| f16::from_f32(x.clamp(-65504.0, 65504.0))).collect();
        let brain: Vec<bf16> = numbers.iter().map(|&x| bf16::from_f32(x)).collect();
        let ids = [0, 7, 7, words as u32 - 1, 2];
        for table in [Table::F32(numbers), Table::F16(narrow), Table::Bf16(brain)] {
            let mut model = families::stand_in(families::stand_in_architecture());
            model.weights.embeddings.word = table.clone();
            for storage in [Storage::F32, Storage::F16] {
                let layout = Layout::new(&model.architecture, storage).unwrap();
                let words = HostWords::new(ModelToLoad::Kept(Arc::new(model.clone())), &layout);
                let mut rows = Vec::new();
                words.gather(&ids, |row| rows.extend_from_slice(row));
                let row = |&id: &u32| storage.encode(&table.numbers(id as usize * width..(id as usize + 1) * width));
                assert!(rows == ids.iter().flat_map(row).collect::<Vec<u8>>(), "{storage:?}");
            }
        }
    }
}
