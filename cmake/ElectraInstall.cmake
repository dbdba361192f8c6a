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
