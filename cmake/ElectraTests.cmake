# electra_test(NAME test_x SOURCES test_x.cc … LINKS electra_core … [DATA] [SLOW] [THREADS] [DEVICE [SWEEP]])
# One Catch2 executable; each of its test cases is a CTest entry named "test_x/<test case>", so that `ctest -R test_x` and
# `ctest -R <part of a case's name>` both select.
#   DATA     reads ../shared/data through tests/shared_data.h; skipped where that folder is absent
#   SLOW     too long for ./test.sh; run by ./test.sh --slow
#   THREADS  belongs to what runs under ThreadSanitizer (loader, threads, signals)
#   DEVICE   runs on the device where the build has one: what the presets simt and simt-check build and run, and bench/run_gpu.sh on a GPU
#   SWEEP    and has test cases of the tag "sweep", which are hidden, and CTest entries of that label
find_package(Catch2 2.13 REQUIRED)
include(Catch)

# Whether the folder exists is asked when a test runs, not here.
get_filename_component(ELECTRA_SHARED_DATA "${PROJECT_SOURCE_DIR}/../shared/data" ABSOLUTE)

add_library(electra_test_main OBJECT "${PROJECT_SOURCE_DIR}/tests/main.cc")
target_link_libraries(electra_test_main PUBLIC Catch2::Catch2 PRIVATE electra_flags)

# A logged warning fails a test of the trainer.
add_library(electra_test_no_warnings OBJECT "${PROJECT_SOURCE_DIR}/tests/no_warnings.cc")
target_link_libraries(electra_test_no_warnings PRIVATE Catch2::Catch2 electra_flags electra_trainer)

# What the tsan preset builds.
add_custom_target(electra_threads_tests)
# What the presets simt and simt-check build.
add_custom_target(electra_device_tests)

function(electra_test)
  cmake_parse_arguments(PARSE_ARGV 0 arg "DATA;SLOW;THREADS;DEVICE;SWEEP" "NAME" "SOURCES;LINKS")
  if(NOT arg_NAME OR NOT arg_SOURCES OR arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "[electra_test] expected NAME … SOURCES … LINKS … [DATA] [SLOW] [THREADS] [DEVICE [SWEEP]], got ${ARGN}")
  endif()
  add_executable(${arg_NAME} ${arg_SOURCES})
  target_include_directories(${arg_NAME} PRIVATE "${PROJECT_SOURCE_DIR}")
  target_link_libraries(${arg_NAME} PRIVATE electra_test_main electra_flags ${arg_LINKS})
  if("electra_trainer" IN_LIST arg_LINKS)
    target_link_libraries(${arg_NAME} PRIVATE electra_test_no_warnings)
  endif()
  target_compile_definitions(${arg_NAME} PRIVATE ELECTRA_SOURCE_DIR="${PROJECT_SOURCE_DIR}")

  # ctest -L takes one label a test here: catch_discover_tests cannot pass a list.
  set(label fast)
  set(properties TIMEOUT 600)
  if(arg_DATA)
    list(APPEND properties ENVIRONMENT "ELECTRA_SHARED_DATA=${ELECTRA_SHARED_DATA}" SKIP_RETURN_CODE 4)
  endif()
  if(arg_SLOW)
    set(label slow)
  elseif(arg_THREADS)
    set(label threads)
    add_dependencies(electra_threads_tests ${arg_NAME})
  endif()
  if(arg_DEVICE)
    add_dependencies(electra_device_tests ${arg_NAME})
    set_property(GLOBAL APPEND PROPERTY ELECTRA_DEVICE_TESTS ${arg_NAME})
    if(NOT ELECTRA_GPU STREQUAL "OFF" AND NOT arg_SLOW)
      set(label device)
    endif()
  endif()
  catch_discover_tests(${arg_NAME} TEST_PREFIX "${arg_NAME}/" PROPERTIES LABELS ${label} ${properties})
  if(arg_SWEEP AND NOT ELECTRA_GPU STREQUAL "OFF")
    catch_discover_tests(${arg_NAME} TEST_PREFIX "${arg_NAME}/" TEST_SPEC "[sweep]" TEST_LIST ${arg_NAME}_SWEEPS PROPERTIES LABELS sweep TIMEOUT 6000)
  endif()
endfunction()
