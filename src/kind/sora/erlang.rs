//! The Erlang virtual machine that Sora runs on.
//!
//! Names and units are those of existing dashboards; types follow Erlang's manual. Values "since the previous call" refer to a call by any
//! client: with several clients, use the cumulative families instead.

use super::FieldSample;
use super::api::{ErlangVm, StatsReport};
use crate::metric::Families;

crate::descs! {
    CONTEXT_SWITCHES = counter "sora_erlang_vm_context_switches" [] "Context switches since the virtual machine started.";
    EXACT_REDUCTIONS_SINCE_LAST_CALL = gauge "sora_erlang_vm_exact_reductions_exact_reductions_since_last_call" [] "Reductions since the last call by any client, including those of running processes.";
    EXACT_REDUCTIONS_TOTAL = counter "sora_erlang_vm_exact_reductions_total_exact_reductions" [] "Reductions since the start, including those of running processes.";
    NUMBER_OF_GCS = counter "sora_erlang_vm_garbage_collection_number_of_gcs" [] "Garbage collections since the start.";
    WORDS_RECLAIMED = counter "sora_erlang_vm_garbage_collection_words_reclaimed" [] "Machine words reclaimed by garbage collection since the start.";
    IO_INPUT = counter "sora_erlang_vm_io_input" [] "Bytes received through ports since the start.";
    IO_OUTPUT = counter "sora_erlang_vm_io_output" [] "Bytes sent through ports since the start.";
    MEMORY_ATOM = gauge "sora_erlang_vm_memory_atom" [] "Bytes allocated for atoms.";
    MEMORY_ATOM_USED = gauge "sora_erlang_vm_memory_atom_used" [] "Bytes used by atoms.";
    MEMORY_BINARY = gauge "sora_erlang_vm_memory_binary" [] "Bytes allocated for binaries.";
    MEMORY_CODE = gauge "sora_erlang_vm_memory_code" [] "Bytes allocated for loaded code.";
    MEMORY_ETS = gauge "sora_erlang_vm_memory_ets" [] "Bytes allocated for ETS tables.";
    MEMORY_PROCESSES = gauge "sora_erlang_vm_memory_processes" [] "Bytes allocated for Erlang processes.";
    MEMORY_PROCESSES_USED = gauge "sora_erlang_vm_memory_processes_used" [] "Bytes used by Erlang processes.";
    MEMORY_SYSTEM = gauge "sora_erlang_vm_memory_system" [] "Bytes allocated for everything except Erlang processes.";
    MEMORY_TOTAL = gauge "sora_erlang_vm_memory_total" [] "Total bytes allocated, for processes and system.";
    REDUCTIONS_SINCE_LAST_CALL = gauge "sora_erlang_vm_reductions_reductions_since_last_call" [] "Reductions since the last call by any client.";
    REDUCTIONS_TOTAL = counter "sora_erlang_vm_reductions_total_reductions" [] "Reductions since the start.";
    RUN_QUEUE = gauge "sora_erlang_vm_run_queue" [] "Processes and ports that are ready to run, on all normal and dirty CPU queues.";
    RUNTIME_SINCE_LAST_CALL = gauge "sora_erlang_vm_runtime_time_since_last_call" [] "Milliseconds of CPU time since the last call by any client.";
    RUNTIME_TOTAL = counter "sora_erlang_vm_runtime_total_run_time" [] "Milliseconds of CPU time since the start.";
    ACTIVE_TASKS = gauge "sora_erlang_vm_total_active_tasks" [] "Processes and ports that are running or ready to run on normal schedulers.";
    ACTIVE_TASKS_ALL = gauge "sora_erlang_vm_total_active_tasks_all" [] "Processes and ports that are running or ready to run, including those of dirty I/O schedulers.";
    RUN_QUEUE_LENGTHS = gauge "sora_erlang_vm_total_run_queue_lengths" [] "Processes and ports that are ready to run on normal schedulers.";
    RUN_QUEUE_LENGTHS_ALL = gauge "sora_erlang_vm_total_run_queue_lengths_all" [] "Processes and ports that are ready to run, including those of dirty I/O schedulers.";
    WALL_CLOCK_TOTAL = counter "sora_erlang_vm_wall_clock_total_wallclock_time" [] "Milliseconds of real time since the start.";
    WALL_CLOCK_SINCE_LAST_CALL = gauge "sora_erlang_vm_wall_clock_wallclock_time_since_last_call" [] "Milliseconds of real time since the last call by any client.";
}

static ROWS: &[FieldSample<ErlangVm>] = &[
    (&CONTEXT_SWITCHES, &[], |vm| vm.statistics.fields().context_switches),
    (&EXACT_REDUCTIONS_SINCE_LAST_CALL, &[], |vm| {
        vm.statistics.fields().exact_reductions.fields().exact_reductions_since_last_call
    }),
    (&EXACT_REDUCTIONS_TOTAL, &[], |vm| vm.statistics.fields().exact_reductions.fields().total_exact_reductions),
    (&NUMBER_OF_GCS, &[], |vm| vm.statistics.fields().garbage_collection.fields().number_of_gcs),
    (&WORDS_RECLAIMED, &[], |vm| vm.statistics.fields().garbage_collection.fields().words_reclaimed),
    (&IO_INPUT, &[], |vm| vm.statistics.fields().io.fields().input),
    (&IO_OUTPUT, &[], |vm| vm.statistics.fields().io.fields().output),
    (&MEMORY_ATOM, &[], |vm| vm.memory.fields().atom),
    (&MEMORY_ATOM_USED, &[], |vm| vm.memory.fields().atom_used),
    (&MEMORY_BINARY, &[], |vm| vm.memory.fields().binary),
    (&MEMORY_CODE, &[], |vm| vm.memory.fields().code),
    (&MEMORY_ETS, &[], |vm| vm.memory.fields().ets),
    (&MEMORY_PROCESSES, &[], |vm| vm.memory.fields().processes),
    (&MEMORY_PROCESSES_USED, &[], |vm| vm.memory.fields().processes_used),
    (&MEMORY_SYSTEM, &[], |vm| vm.memory.fields().system),
    (&MEMORY_TOTAL, &[], |vm| vm.memory.fields().total),
    (&REDUCTIONS_SINCE_LAST_CALL, &[], |vm| vm.statistics.fields().reductions.fields().reductions_since_last_call),
    (&REDUCTIONS_TOTAL, &[], |vm| vm.statistics.fields().reductions.fields().total_reductions),
    (&RUN_QUEUE, &[], |vm| vm.statistics.fields().run_queue),
    (&RUNTIME_SINCE_LAST_CALL, &[], |vm| vm.statistics.fields().runtime.fields().time_since_last_call),
    (&RUNTIME_TOTAL, &[], |vm| vm.statistics.fields().runtime.fields().total_run_time),
    (&ACTIVE_TASKS, &[], |vm| vm.statistics.fields().total_active_tasks),
    (&ACTIVE_TASKS_ALL, &[], |vm| vm.statistics.fields().total_active_tasks_all),
    (&RUN_QUEUE_LENGTHS, &[], |vm| vm.statistics.fields().total_run_queue_lengths),
    (&RUN_QUEUE_LENGTHS_ALL, &[], |vm| vm.statistics.fields().total_run_queue_lengths_all),
    (&WALL_CLOCK_TOTAL, &[], |vm| vm.statistics.fields().wall_clock.fields().total_wallclock_time),
    (&WALL_CLOCK_SINCE_LAST_CALL, &[], |vm| vm.statistics.fields().wall_clock.fields().wallclock_time_since_last_call),
];

/// The families of the virtual machine.
pub(super) fn write(report: &StatsReport, out: &mut Families) {
    let Some(vm) = report.erlang_vm.read(out) else { return };
    vm.memory.count_invalid(out);
    if let Some(statistics) = vm.statistics.read(out) {
        statistics.exact_reductions.count_invalid(out);
        statistics.garbage_collection.count_invalid(out);
        statistics.io.count_invalid(out);
        statistics.reductions.count_invalid(out);
        statistics.runtime.count_invalid(out);
        statistics.wall_clock.count_invalid(out);
    }
    super::write_rows(ROWS, vm, out);
}
