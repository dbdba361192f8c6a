# cmake --install: the program, the libraries and their headers, and a package so that another project can say
# find_package(electra) and link electra::engine, electra::tokenizer, ….
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/electra")
get_property(libraries GLOBAL PROPERTY ELECTRA_LIBRARIES)
install(TARGETS ${libraries} EXPORT electraTargets
  ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
  FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/electra"
  INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/electra")
install(EXPORT electraTargets NAMESPACE electra:: DESTINATION "${package_dir}")

configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/electraConfig.cmake.in"
  "${PROJECT_BINARY_DIR}/electraConfig.cmake" INSTALL_DESTINATION "${package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/electraConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/electraConfig.cmake" "${PROJECT_BINARY_DIR}/electraConfigVersion.cmake"
  DESTINATION "${package_dir}")

# What scripts/package.sh adds: the benchmarks and the tests that run on a device, with what they read, and the list of these tests, which
# bench/run_gpu.sh reads. No ordinary installation has it.
get_property(benches GLOBAL PROPERTY ELECTRA_BENCHES)
get_property(device_tests GLOBAL PROPERTY ELECTRA_DEVICE_TESTS)
if(benches OR device_tests)
  install(TARGETS ${benches} ${device_tests} RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" COMPONENT measurement EXCLUDE_FROM_ALL)
endif()
list(JOIN device_tests "\n" lines)
file(WRITE "${PROJECT_BINARY_DIR}/device_tests" "${lines}\n")
install(FILES "${PROJECT_BINARY_DIR}/device_tests" DESTINATION "${CMAKE_INSTALL_DATADIR}/electra" COMPONENT measurement EXCLUDE_FROM_ALL)
install(PROGRAMS "${PROJECT_SOURCE_DIR}/bench/run_gpu.sh" "${PROJECT_SOURCE_DIR}/bench/attention_pytorch.py" DESTINATION . COMPONENT measurement EXCLUDE_FROM_ALL)
install(DIRECTORY "${PROJECT_SOURCE_DIR}/configs" DESTINATION "${CMAKE_INSTALL_DATADIR}/electra" COMPONENT measurement EXCLUDE_FROM_ALL)
install(DIRECTORY "${PROJECT_SOURCE_DIR}/tests/golden" DESTINATION "${CMAKE_INSTALL_DATADIR}/electra/tests" COMPONENT measurement
  EXCLUDE_FROM_ALL PATTERN "*.py" EXCLUDE)
