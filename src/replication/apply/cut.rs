//! Changes whose LOB values were cut to `LobMaxSize`, settled by `DataTruncationErrorPolicy`.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.ErrorHandling.html>

use super::super::log::task_log;
use super::super::net::NetChange;
use super::super::policy::Action;
use super::rows::{row_change, set};
use super::{Apply, unknown};
use crate::connector::Conflict;
use crate::data::{Error, ErrorKind, Op, Result};

impl Apply<'_> {
    /// Tells whether a change is to be applied, though values of it may have been cut. That a change counts once, however
    /// many of its values were, is a guess, as is that an UPDATE counts that left a long value as it was: the log has it.
    pub(super) async fn settle_cut(&mut self, index: usize, change: &NetChange) -> Result<bool> {
        let columns = self.cut_columns(index, change)?;
        let Some(first) = columns.first() else { return Ok(true) };
        let action = self.decide(index, change.op, ErrorKind::Truncation)?;
        let Some(Some(table)) = self.tables.get(index) else { return Err(unknown()) };
        let name = &table.plan.source.name;
        let column = |column: usize| &table.version.schema.columns[column].name;
        let bytes_max = self.rules.lob_bytes_max().unwrap_or_default();
        match action {
            Action::Ignore => return Ok(false),
            Action::Log | Action::Retry => {
                for cut in &columns {
                    // Recorded like this, with the actual length.
                    let column = column(*cut);
                    task_log!(
                        self.rules.log,
                        SourceCapture,
                        Warning,
                        "Value of column '{column}' in table '{name}' was truncated to {bytes_max} bytes"
                    );
                }
                return Ok(true);
            }
            Action::SuspendTable | Action::StopTask => {}
        }
        let what = format!("the value of column '{}' in table '{name}' is longer than LobMaxSize", column(*first));
        // What came before is applied: nothing of a suspended table is any more.
        self.flush().await?;
        let Some(Some(table)) = self.tables.get(index) else { return Err(unknown()) };
        if !table.tally.suspended {
            let rows = [row_change(&self.pieces, change)];
            let statement = self.applier.statement(&set(table, change.op, &rows, Conflict::Refuse));
            self.leave_out(index, action, Error::new(ErrorKind::Truncation, what), statement)?;
        }
        Ok(false)
    }

    /// The columns whose cut values would get to the target: of the new row, and of the old one where before images of an
    /// UPDATE are kept.
    fn cut_columns(&self, index: usize, change: &NetChange) -> Result<Vec<usize>> {
        let Some(Some(table)) = self.tables.get(index) else { return Err(unknown()) };
        let before = change.old.filter(|_| change.op == Op::Update);
        let images = [(change.new, &table.plan.columns), (before, &table.plan.before_images)];
        let cut = images.iter().filter_map(|(image, kept)| Some(((*image)?, kept))).flat_map(|(image, kept)| {
            let rows = &self.pieces[image.piece as usize].rows;
            rows.cut(image.row as usize).filter(|column| kept.contains(column))
        });
        Ok(cut.collect())
    }
}
